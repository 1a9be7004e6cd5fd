"""The stack of decoder layers, run as stretches: everything between two caches of keys and values is one pure function.

Decoding is bound by the number of kernels and by building their graph. A stretch holds the end of one attention layer, the
recurrent layers after it and the start of the next attention layer; for a few tokens it is compiled as a whole, so that a step
of 48 layers builds 13 graphs that MLX has seen before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx import nn

from mlx_qnext.mlx_lm_parts import create_attention_mask, create_ssm_mask
from mlx_qnext.model.attention import Projected
from mlx_qnext.model.gated_delta_net import RecurrentState
from mlx_qnext.model.layers import AttentionLayer, RecurrentLayer
from mlx_qnext.model.linear import Embedding
from mlx_qnext.model.norm import RmsNorm
from mlx_qnext.ops.device import Backend, backend

# A compiled graph is kept per number of tokens: worth it for decoding and verification, not for every prompt's length.
_COMPILE_UP_TO_TOKENS = 8


class Stretch:
    """The end of an attention layer (or none), recurrent layers, and the start of an attention layer (or none)."""

    def __init__(
        self,
        closing: AttentionLayer | None,
        recurrent: Sequence[tuple[int, RecurrentLayer]],
        opening: tuple[int, AttentionLayer] | None,
    ) -> None:
        self.closing, self.opening = closing, opening
        self.recurrent = recurrent
        self._compiled = mx.compile(self._run)

    def __call__(
        self,
        x: mx.array,
        attended: tuple[mx.array, ...],
        states: list[RecurrentState],
        mask: mx.array | None,
    ) -> tuple[mx.array, tuple[mx.array, ...], list[RecurrentState]]:
        """Residual stream, (attention output, gate) of the closing layer, states → stream, `Projected` or (), states."""
        few = mask is None and x.shape[1] <= _COMPILE_UP_TO_TOKENS and backend() is not Backend.CPU
        if few:
            return self._compiled(x, attended, states)
        return self._run(x, attended, states, mask)

    def _run(
        self,
        x: mx.array,
        attended: tuple[mx.array, ...],
        states: list[RecurrentState],
        mask: mx.array | None = None,
    ) -> tuple[mx.array, tuple[mx.array, ...], list[RecurrentState]]:
        if self.closing is not None:
            x = self.closing.after(x, *attended)
        after: list[RecurrentState] = []
        for (_, layer), past in zip(self.recurrent, states, strict=True):
            x, state = layer(x, RecurrentState(*past), mask)
            after.append(state)
        projected = self.opening[1].before(x) if self.opening is not None else ()
        return x, tuple(projected), after


class Trunk(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(
        self, embed_tokens: Embedding, layers: Sequence[AttentionLayer | RecurrentLayer], norm: RmsNorm
    ) -> None:
        super().__init__()
        self.embed_tokens, self.layers, self.norm = embed_tokens, list(layers), norm
        # Not a module attribute: stretches are views of the layers above, not parameters of their own.
        self._stretches = _stretches(layers)

    def __call__(self, inputs: mx.array, cache: Sequence[Any] | None = None) -> mx.array:
        """Token ids `[B, T]` → hidden states after the final norm `[B, T, hidden]`; the cache advances by T."""
        x = self.embed_tokens(inputs)
        caches = list(cache) if cache is not None else [None] * len(self.layers)
        recurrent_mask, attention_mask = self._masks(x, caches)
        attended: tuple[mx.array, ...] = ()
        for stretch in self._stretches:
            states = [self._state(x, layer, caches[index]) for index, layer in stretch.recurrent]
            x, projected, states = stretch(x, attended, states, recurrent_mask)
            for (index, _), state in zip(stretch.recurrent, states, strict=True):
                _store(caches[index], state, inputs.shape[1])
            if stretch.opening is not None:
                index, layer = stretch.opening
                read = Projected(*projected)
                attended = (layer.mixer.attend(read, attention_mask, caches[index]), read.gate)
        return self.norm(x)

    def _masks(self, x: mx.array, caches: list[Any]) -> tuple[mx.array | None, mx.array | str | None]:
        """The masks of recurrent and attention layers, from the first cache of each kind."""
        kinds = (RecurrentLayer, AttentionLayer)
        recurrent, attention = (
            next((c for c, layer in zip(caches, self.layers) if isinstance(layer, kind)), None)
            for kind in kinds
        )
        return create_ssm_mask(x, recurrent), create_attention_mask(x, attention)

    @staticmethod
    def _state(x: mx.array, layer: RecurrentLayer, cache: Any) -> RecurrentState:
        if cache is None or cache[0] is None:
            return layer.mixer.empty_state(x.shape[0], x.dtype)
        return RecurrentState(cache[0], cache[1])


def _store(cache: Any, state: RecurrentState, tokens: int) -> None:
    if cache is not None:
        cache[0], cache[1] = state.window, state.state
        cache.advance(tokens)


def _stretches(layers: Sequence[AttentionLayer | RecurrentLayer]) -> list[Stretch]:
    stretches: list[Stretch] = []
    closing: AttentionLayer | None = None
    recurrent: list[tuple[int, RecurrentLayer]] = []
    for index, layer in enumerate(layers):
        if isinstance(layer, RecurrentLayer):
            recurrent.append((index, layer))
        else:
            stretches.append(Stretch(closing, recurrent, (index, layer)))
            closing, recurrent = layer, []
    return [*stretches, Stretch(closing, recurrent, None)]
