"""A decoder layer: mixer, then feed-forward, each behind its norm and added to the residual stream.

Both kinds of layer are cut where the cache is touched: what remains between two caches of keys and values is a pure function,
which the trunk compiles whole.
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from mlx_qnext.mlx_lm_parts import KVCache
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

    def _add(self, x: mx.array, mixed: mx.array) -> mx.array:
        """The mixer's output joins the residual stream, then the feed-forward's."""
        x = x + mixed
        return x + self.feed_forward(self.post_norm(x))


class RecurrentLayer(_Layer):
    """A layer whose mixer is a Gated DeltaNet."""

    mixer: GatedDeltaNet

    def __call__(
        self, x: mx.array, past: RecurrentState, mask: mx.array | None = None
    ) -> tuple[mx.array, RecurrentState]:
        """`[B, T, hidden] → [B, T, hidden]` and the state after it."""
        mixed, state = self.mixer(self.input_norm(x), past, mask)
        return self._add(x, mixed), state

    def verify(self, x: mx.array, past: RecurrentState) -> tuple[mx.array, Recorded]:
        """The same output, and what gives the state after any prefix of the tokens."""
        mixed, recorded = self.mixer.verify(self.input_norm(x), past)
        return self._add(x, mixed), recorded


class AttentionLayer(_Layer):
    """A layer whose mixer is gated full attention."""

    mixer: Attention

    def __call__(self, x: mx.array, mask: mx.array | str | None, cache: KVCache | None) -> mx.array:
        """`[B, T, hidden] → [B, T, hidden]`; keys and values are appended to the cache."""
        projected = self.before(x)
        return self.after(x, self.mixer.attend(projected, mask, cache), projected.gate)

    def before(self, x: mx.array) -> Projected:
        """What happens before the cache."""
        return self.mixer.project(self.input_norm(x))

    def after(self, x: mx.array, attended: mx.array, gate: mx.array) -> mx.array:
        """What happens after it, to the end of the layer."""
        return self._add(x, self.mixer.output(attended, gate))
