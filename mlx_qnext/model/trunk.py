"""The stack of decoder layers, run as stretches between the places where a pass is interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx import nn

from mlx_qnext.mlx_lm_parts import create_attention_mask, create_ssm_mask
from mlx_qnext.model.attention import Projected
from mlx_qnext.model.gated_delta_net import Recorded, RecurrentState
from mlx_qnext.model.layers import AttentionLayer, RecurrentLayer
from mlx_qnext.model.linear import Embedding
from mlx_qnext.model.moe import Experts, Routed, SparseMoe
from mlx_qnext.model.norm import RmsNorm
from mlx_qnext.model.pooled_experts import PooledExperts
from mlx_qnext.model.stretch import Arrays, Attend, Group, Stretch, Visit, groups
from mlx_qnext.model.verification import Verification


class Trunk(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(
        self, embed_tokens: Embedding, layers: Sequence[AttentionLayer | RecurrentLayer], norm: RmsNorm
    ) -> None:
        super().__init__()
        self.embed_tokens, self.layers, self.norm = embed_tokens, list(layers), norm
        # Not a module attribute: groups are views of the layers above, not parameters of their own.
        self._groups = groups(layers)

    @property
    def groups(self) -> list[Group]:
        """What a pass goes through, in order."""
        return self._groups

    def __call__(self, inputs: mx.array, cache: Sequence[Any] | None = None) -> mx.array:
        """Token ids `[B, T]` → hidden states after the final norm `[B, T, hidden]`; the cache advances by T."""
        x = self.embed_tokens(inputs)
        caches = list(cache) if cache is not None else [None] * len(self.layers)
        recurrent_mask, attention_mask = self._masks(x, caches)
        answer: Arrays = ()
        for group in self._groups:
            for stretch in group.stretches():
                states = [recurrent_state(x, half.layer, caches[half.index]) for half in stretch.recurrent]
                x, asked, states = stretch(x, answer, states, recurrent_mask)
                for half, state in zip(stretch.recurrent, states, strict=True):
                    store_state(caches[half.index], state, inputs.shape[1])
                answer = _answer(stretch, asked, attention_mask, caches)
        return self.norm(x)

    def verify(self, inputs: mx.array, cache: Sequence[Any]) -> tuple[mx.array, Verification]:
        """As a call, for tokens `[1, T]` of which a prefix will be kept: the caches stay undecided until `keep`."""
        x = self.embed_tokens(inputs)
        mask = self._masks(x, list(cache))[1]
        answer: Arrays = ()
        recurrent: list[tuple[Any, RecurrentState, Recorded]] = []
        for group in self._groups:
            for stretch in group.stretches():
                states = [recurrent_state(x, half.layer, cache[half.index]) for half in stretch.recurrent]
                x, asked, records = stretch.verify(x, answer, states)
                for half, past, recorded in zip(stretch.recurrent, states, records, strict=True):
                    recurrent.append((cache[half.index], past, Recorded(*recorded)))
                # The first token is the sampler's own; those after it are drafts.
                answer = _answer(stretch, asked, mask, cache, certain=1)
        growing = [c for c, layer in zip(cache, self.layers) if isinstance(layer, AttentionLayer)]
        experts = (
            f.experts for f in (layer.feed_forward for layer in self.layers) if isinstance(f, SparseMoe)
        )
        visited = [pooled for pooled in experts if isinstance(pooled, PooledExperts)]
        return self.norm(x), Verification(growing, recurrent, visited, inputs.shape[1])

    def release(self) -> None:
        """Hold on to no expert's arrays but where they are parameters."""
        for group in self._groups:
            group.release()

    def _masks(self, x: mx.array, caches: list[Any]) -> tuple[mx.array | None, mx.array | str | None]:
        """The masks of recurrent and attention layers, from the first cache of each kind."""
        kinds = (RecurrentLayer, AttentionLayer)
        recurrent, attention = (
            next((c for c, layer in zip(caches, self.layers) if isinstance(layer, kind)), None)
            for kind in kinds
        )
        return create_ssm_mask(x, recurrent), create_attention_mask(x, attention)


def recurrent_state(x: mx.array, layer: RecurrentLayer, cache: Any) -> RecurrentState:
    """What the cache holds for a layer, or the state before the first token."""
    if cache is None or cache[0] is None:
        return layer.mixer.empty_state(x.shape[0], x.dtype)
    return RecurrentState(cache[0], cache[1])


def store_state(cache: Any, state: RecurrentState, tokens: int) -> None:
    """Make the cache hold the state after `tokens` more tokens."""
    if cache is not None:
        cache[0], cache[1] = state.window, state.state
        cache.advance(tokens)


def _visits(experts: Experts, routed: Routed, certain: int | None) -> mx.array:
    if isinstance(experts, PooledExperts):
        return experts(routed.x, routed.experts, certain)
    return experts(routed.x, routed.experts)


def _answer(
    stretch: Stretch,
    asked: Arrays,
    mask: mx.array | str | None,
    caches: Sequence[Any],
    certain: int | None = None,
) -> Arrays:
    """What the interruption that the stretch opens comes to; keys and values are in the cache, experts have been visited."""
    match stretch.opening:
        case Attend(index, layer):
            read = Projected(*asked)
            return layer.mixer.attend(read, mask, caches[index]), read.gate
        case Visit(_, moe):
            routed = Routed(*asked)
            return _visits(moe.experts, routed, certain), *routed
    return ()
