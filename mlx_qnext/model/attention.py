"""Gated full attention, in the three parts that a step needs apart: before the cache, on the cache, after it."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
from mlx import nn

from mlx_qnext.cache.kv import GrowingCache
from mlx_qnext.cache.shelves import Rows
from mlx_qnext.config import ModelConfig
from mlx_qnext.model.linear import Linear, Projection
from mlx_qnext.model.norm import RmsNorm
from mlx_qnext.ops.attention import attention
from mlx_qnext.ops.elementwise import gated
from mlx_qnext.ops.matrix import Matrix
from mlx_qnext.ops.rope import rope


class Projected(NamedTuple):
    """What attention reads of its input: q, gate `[B, T, H, D]` and k, v `[B, T, Hk, D]`.

    q and k are normed, and not yet rotated.
    """

    q: mx.array
    k: mx.array
    v: mx.array
    gate: mx.array


class Attention(nn.Module):
    """`Qwen3NextAttention` of transformers: grouped-query attention whose output a sigmoid gate scales per channel.

    Args:
        q_proj: `[2 H D, hidden]`, query and gate alternating per head.
        k_proj, v_proj: `[Hk D, hidden]`. o_proj: `[hidden, H D]`.
    """

    def __init__(
        self,
        config: ModelConfig,
        q_proj: Matrix,
        k_proj: Matrix,
        v_proj: Matrix,
        o_proj: Matrix,
        q_norm: RmsNorm,
        k_norm: RmsNorm,
    ) -> None:
        super().__init__()
        self.config = config
        queries, gates = _apart(q_proj, config.num_attention_heads, config.head_dim)
        self.in_proj = Projection([queries, k_proj, v_proj, gates])
        self.o_proj = Linear(o_proj)
        self.q_norm, self.k_norm = q_norm, k_norm

    def project(self, x: mx.array) -> Projected:
        """`[B, T, hidden]` → normed queries and keys, values, gates; a pure function of the input."""
        c = self.config
        heads = mx.unflatten(self.in_proj(x), -1, (-1, c.head_dim))
        bounds = [c.num_attention_heads + n * c.num_key_value_heads for n in range(3)]
        q, k, v, gate = mx.split(heads, bounds, axis=-2)
        return Projected(self.q_norm(q), self.k_norm(k), v, gate)

    def attend(
        self, projected: Projected, mask: mx.array | str | None, cache: GrowingCache | Rows | None
    ) -> mx.array:
        """Rotate, append keys and values to the cache, and attend: `[B, T, H D]`.

        Queries may be those of the last positions alone; keys and values come from all of them.
        """
        q, k, v = (x.swapaxes(1, 2) for x in projected[:3])
        offset = cache.offset if cache is not None else 0
        unasked = k.shape[2] - q.shape[2]
        q, k = rope(q, self.config, offset + unasked), rope(k, self.config, offset)
        if cache is not None:
            k, v = cache.update_and_fetch(k, v)
        return attention(q, k, v, mask, cache).swapaxes(1, 2).flatten(-2)

    def output(self, attended: mx.array, gate: mx.array) -> mx.array:
        """Gate and project back: `[B, T, hidden]`; a pure function of its inputs."""
        return self.o_proj(gated(attended, gate.flatten(-2)))


def _apart(q_proj: Matrix, heads: int, head_dim: int) -> tuple[Matrix, Matrix]:
    rows = mx.arange(2 * heads * head_dim).reshape(heads, 2, head_dim)
    return q_proj.take_rows(rows[:, 0].flatten()), q_proj.take_rows(rows[:, 1].flatten())
