"""Qwen3-Next: the trunk, its output head, and the MTP head where the checkpoint has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx import nn

from mlx_qnext.cache.kv import GrowingCache, check_kv_bits, kv_cache
from mlx_qnext.config import ModelConfig
from mlx_qnext.mlx_lm_parts import ArraysCache
from mlx_qnext.model.layers import AttentionLayer, RecurrentLayer
from mlx_qnext.model.linear import Linear
from mlx_qnext.model.moe import SparseMoe
from mlx_qnext.model.mtp import MtpHead
from mlx_qnext.model.trunk import Trunk
from mlx_qnext.model.verification import Verification


class Model(nn.Module):
    """`Qwen3NextForCausalLM` of transformers.

    It follows mlx-lm's model protocol: `model(inputs, cache)`, `layers`, `make_cache()`.

    Attributes:
        mtp: the multi-token-prediction head, or `None`.
    """

    def __init__(
        self, config: ModelConfig, trunk: Trunk, lm_head: Linear | None, mtp: MtpHead | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.model = trunk
        self.lm_head = lm_head
        self.mtp = mtp

    def __call__(self, inputs: mx.array, cache: Sequence[Any] | None = None) -> mx.array:
        """Token ids `[B, T]` → logits `[B, T, vocab]`; the cache advances by T."""
        return self.logits(self.hidden(inputs, cache))

    def hidden(self, inputs: mx.array, cache: Sequence[Any] | None = None) -> mx.array:
        """Token ids `[B, T]` → the trunk's states after its final norm `[B, T, hidden]`; the cache advances by T."""
        return self.model(inputs, cache)

    def verify(self, inputs: mx.array, cache: Sequence[Any]) -> tuple[mx.array, Verification]:
        """As `hidden`, for tokens `[1, T]` of which `Verification.keep` then decides how many the cache holds."""
        return self.model.verify(inputs, cache)

    def logits(self, hidden: mx.array) -> mx.array:
        """Hidden states after a final norm, the trunk's or the MTP head's, → logits over the vocabulary."""
        if self.lm_head is None:
            return self.model.embed_tokens.as_linear(hidden)
        return self.lm_head(hidden)

    @property
    def complete(self) -> bool:
        """Whether every expert of the trunk is in memory."""
        forwards = (layer.feed_forward for layer in self.layers)
        return all(f.experts.complete for f in forwards if isinstance(f, SparseMoe))

    @property
    def layers(self) -> list[AttentionLayer | RecurrentLayer]:
        """The decoder layers, in order."""
        return self.model.layers

    def make_cache(self, kv_bits: int | None = None) -> list[GrowingCache | ArraysCache]:
        """An empty mlx-lm cache per layer: keys and values for attention, window and state for recurrent layers.

        With `kv_bits`, 8 or 4, keys and values are quantised; windows and states never are.

        Raises:
            UsageError: keys and values of this model cannot be held at so many bits.
        """
        check_kv_bits(kv_bits, self.config.head_dim)
        return [
            ArraysCache(size=2) if isinstance(layer, RecurrentLayer) else kv_cache(kv_bits)
            for layer in self.layers
        ]
