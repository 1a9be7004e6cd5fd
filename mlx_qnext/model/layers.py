"""A decoder layer: mixer, then feed-forward, each behind its norm and added to the residual stream.

Both halves are cut where something impure may happen: the mixer of an attention layer at its cache, a mixture of experts where
the experts are fetched. What remains between two cuts is a pure function, which the trunk compiles whole.
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from mlx_qnext.cache.kv import GrowingCache
from mlx_qnext.model.attention import Attention, Projected
from mlx_qnext.model.gated_delta_net import GatedDeltaNet, Recorded, RecurrentState
from mlx_qnext.model.moe import Mlp, SparseMoe
from mlx_qnext.model.norm import RmsNorm

FeedForward = Mlp | SparseMoe


class _Layer(nn.Module):
    def __init__(
        self, input_norm: RmsNorm, mixer: nn.Module, post_norm: RmsNorm, feed_forward: FeedForward
    ) -> None:
        super().__init__()
        self.input_norm, self.mixer = input_norm, mixer
        self.post_norm, self.feed_forward = post_norm, feed_forward

    def feed(self, x: mx.array) -> mx.array:
        """The layer's second half: the feed-forward's output joins the residual stream."""
        return x + self.feed_forward(self.post_norm(x))


class RecurrentLayer(_Layer):
    """A layer whose mixer is a Gated DeltaNet."""

    mixer: GatedDeltaNet

    def mix(
        self, x: mx.array, past: RecurrentState, mask: mx.array | None = None
    ) -> tuple[mx.array, RecurrentState]:
        """The layer's first half, `[B, T, hidden] → [B, T, hidden]`, and the state after it."""
        mixed, state = self.mixer(self.input_norm(x), past, mask)
        return x + mixed, state

    def verify(self, x: mx.array, past: RecurrentState) -> tuple[mx.array, Recorded]:
        """The same output, and what gives the state after any prefix of the tokens."""
        mixed, recorded = self.mixer.verify(self.input_norm(x), past)
        return x + mixed, recorded


class AttentionLayer(_Layer):
    """A layer whose mixer is gated full attention."""

    mixer: Attention

    def __call__(self, x: mx.array, mask: mx.array | str | None, cache: GrowingCache | None) -> mx.array:
        """`[B, T, hidden] → [B, T, hidden]`; keys and values are appended to the cache."""
        return self.feed(self.mix(x, mask, cache))

    def mix(self, x: mx.array, mask: mx.array | str | None, cache: GrowingCache | None) -> mx.array:
        """The layer's first half; keys and values are appended to the cache."""
        projected = self.project(x)
        return self.join(x, self.mixer.attend(projected, mask, cache), projected.gate)

    def project(self, x: mx.array) -> Projected:
        """What of the first half happens before the cache."""
        return self.mixer.project(self.input_norm(x))

    def join(self, x: mx.array, attended: mx.array, gate: mx.array) -> mx.array:
        """What of it happens after the cache."""
        return x + self.mixer.output(attended, gate)
