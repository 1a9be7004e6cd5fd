"""The recurrent mixer: a short convolution, then the gated delta rule over a matrix-valued state."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
from mlx import nn

from mlx_qnext.config import ModelConfig
from mlx_qnext.model.linear import Linear, Projection
from mlx_qnext.model.norm import RmsNorm
from mlx_qnext.ops import gated_delta_prefixes as prefixes
from mlx_qnext.ops.convolution import causal_convolution, window_after
from mlx_qnext.ops.elementwise import gated_norm_output, log_decay
from mlx_qnext.ops.gated_delta import gated_delta
from mlx_qnext.ops.matrix import Matrix


class RecurrentState(NamedTuple):
    """What a recurrent layer remembers.

    Attributes:
        window: the convolution's last inputs, `[B, K - 1, C]`.
        state: of the delta rule, `[B, Hv, Dv, Dk]` in fp32.
    """

    window: mx.array
    state: mx.array


class Recorded(NamedTuple):
    """What a recurrent layer records of a few tokens, so that any prefix of them can be kept.

    Attributes:
        mixed: the convolution's inputs, `[B, T, C]`.
        delta: the delta rule's record.
    """

    mixed: mx.array
    delta: prefixes.Record

    def state_after(self, count: int, past: RecurrentState) -> RecurrentState:
        """The state after the first `count` tokens, from the one before them; reads no weights."""
        window = window_after(count, self.mixed, past.window)
        return RecurrentState(window, prefixes.state_after(count, past.state, self.delta))


class GatedDeltaNet(nn.Module):
    """`Qwen3NextGatedDeltaNet` of transformers (Yang et al. 2024, arXiv 2412.06464).

    Args:
        in_proj_qkvz, in_proj_ba: rows grouped per key head, as checkpoints store them.
        conv: `[C, K]`, oldest input first, over the channels q, k, v.
        A_log, dt_bias: `[Hv]`. norm: over `Dv`, with a weight that is not zero-centred.
    """

    def __init__(
        self,
        config: ModelConfig,
        in_proj_qkvz: Matrix,
        in_proj_ba: Matrix,
        conv: mx.array,
        A_log: mx.array,
        dt_bias: mx.array,
        norm: RmsNorm,
        out_proj: Matrix,
    ) -> None:
        super().__init__()
        self.config = config
        self.in_proj = Projection([_ungroup_qkvz(in_proj_qkvz, config), _ungroup_ba(in_proj_ba, config)])
        self.conv = conv
        self.decay_rate = mx.exp(A_log.astype(mx.float32))
        self.dt_bias = dt_bias.astype(mx.float32)
        self.norm = norm
        self.out_proj = Linear(out_proj)

    def __call__(
        self, x: mx.array, past: RecurrentState, mask: mx.array | None = None
    ) -> tuple[mx.array, RecurrentState]:
        """`[B, T, hidden] → [B, T, hidden]` and the state after it; a pure function of its inputs.

        `mask` `[B, T]` is False at padding, which leaves window and state as they were.
        """
        mixed, z, b, a = self._project(x)
        filtered, window = causal_convolution(mixed, past.window, self.conv, mask)
        q, k, v, decay, beta = self._inputs(filtered, b, a)
        y, state = gated_delta(q, k, v, decay, beta, past.state, mask)
        return self._output(y, z), RecurrentState(window, state)

    def verify(self, x: mx.array, past: RecurrentState) -> tuple[mx.array, Recorded]:
        """The same output, and instead of the state after all tokens what gives the one after any prefix."""
        mixed, z, b, a = self._project(x)
        filtered, _ = causal_convolution(mixed, past.window, self.conv)
        q, k, v, decay, beta = self._inputs(filtered, b, a)
        y, delta = prefixes.gated_delta_recorded(q, k, v, decay, beta, past.state)
        return self._output(y, z), Recorded(mixed, delta)

    def empty_state(self, batch: int, dtype: mx.Dtype) -> RecurrentState:
        """The state before the first token."""
        c = self.config
        window = mx.zeros((batch, c.linear_conv_kernel_dim - 1, c.linear_conv_dim), dtype=dtype)
        shape = (batch, c.linear_num_value_heads, c.linear_value_head_dim, c.linear_key_head_dim)
        return RecurrentState(window, mx.zeros(shape, dtype=mx.float32))

    def _project(self, x: mx.array) -> tuple[mx.array, ...]:
        """The convolution's inputs `[B, T, C]`, the output gate z, and b and a of beta and decay."""
        c = self.config
        channels, values = c.linear_conv_dim, c.linear_value_dim
        bounds = [channels, channels + values, channels + values + c.linear_num_value_heads]
        return tuple(mx.split(self.in_proj(x), bounds, axis=-1))

    def _inputs(self, filtered: mx.array, b: mx.array, a: mx.array) -> tuple[mx.array, ...]:
        """q, k, v, log of the decay and beta, as the delta rule takes them."""
        return *self._heads(filtered), log_decay(a, self.dt_bias, self.decay_rate), mx.sigmoid(b)

    def _output(self, y: mx.array, z: mx.array) -> mx.array:
        z = mx.unflatten(z, -1, (-1, self.config.linear_value_head_dim))
        return self.out_proj(gated_norm_output(self.norm(y), z).flatten(-2))

    def _heads(self, mixed: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Channels → q, k of unit length `[B, T, Hk, Dk]`, q also scaled by Dk ** -0.5, and v `[B, T, Hv, Dv]`."""
        c = self.config
        D = c.linear_key_head_dim
        qk, v = mx.split(mixed, [2 * c.linear_key_dim], axis=-1)
        # rms_norm divides by the root of a mean: over D channels that is the length times D ** -0.5, epsilon included.
        qk = mx.fast.rms_norm(mx.unflatten(qk, -1, (-1, D)), None, 1e-6 / D)
        q, k = mx.split(qk, 2, axis=-2)
        return q * (1 / D), k * D**-0.5, mx.unflatten(v, -1, (-1, c.linear_value_head_dim))


def _ungroup_qkvz(matrix: Matrix, config: ModelConfig) -> Matrix:
    """Rows grouped per key head as q, k, v…, z… → q, k, v, z of all heads: the convolution's channel order, then z."""
    Hk, Dk = config.linear_num_key_heads, config.linear_key_head_dim
    bounds = [Dk, 2 * Dk, 2 * Dk + config.linear_value_dim // Hk]
    rows = mx.arange(matrix.rows).reshape(Hk, -1)
    return matrix.take_rows(mx.concatenate([part.flatten() for part in mx.split(rows, bounds, axis=1)]))


def _ungroup_ba(matrix: Matrix, config: ModelConfig) -> Matrix:
    """Rows grouped per key head as b…, a… → b, a of all heads."""
    rows = mx.arange(matrix.rows).reshape(config.linear_num_key_heads, 2, -1)
    return matrix.take_rows(rows.swapaxes(0, 1).flatten())
