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
from mlx_qnext.model.gated_delta_net import Recorded, RecurrentState
from mlx_qnext.model.layers import AttentionLayer, RecurrentLayer
from mlx_qnext.model.linear import Embedding
from mlx_qnext.model.norm import RmsNorm
from mlx_qnext.model.verification import Verification
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
        self._compiled_verify = mx.compile(self._verify)

    def __call__(
        self, x: mx.array, attended: tuple[mx.array, ...], states: list[RecurrentState], mask: mx.array | None
    ) -> tuple[mx.array, tuple[mx.array, ...], list[RecurrentState]]:
        """Residual stream, (attention output, gate) of the closing layer, states → stream, `Projected` or (), states."""
        if mask is None and _compiles(x):
            return self._compiled(x, attended, states)
        return self._run(x, attended, states, mask)

    def verify(
        self, x: mx.array, attended: tuple[mx.array, ...], states: list[RecurrentState]
    ) -> tuple[mx.array, tuple[mx.array, ...], list[Recorded]]:
        """The same with each layer's record in place of its state after the tokens."""
        return (self._compiled_verify if _compiles(x) else self._verify)(x, attended, states)

    def _run(
        self,
        x: mx.array,
        attended: tuple[mx.array, ...],
        states: list[RecurrentState],
        mask: mx.array | None = None,
    ) -> tuple[mx.array, tuple[mx.array, ...], list[RecurrentState]]:
        x = self._close(x, attended)
        after: list[RecurrentState] = []
        for (_, layer), past in zip(self.recurrent, states, strict=True):
            x, state = layer(x, RecurrentState(*past), mask)
            after.append(state)
        return x, self._open(x), after

    def _verify(
        self, x: mx.array, attended: tuple[mx.array, ...], states: list[RecurrentState]
    ) -> tuple[mx.array, tuple[mx.array, ...], list[Recorded]]:
        x = self._close(x, attended)
        records: list[Recorded] = []
        for (_, layer), past in zip(self.recurrent, states, strict=True):
            x, recorded = layer.verify(x, RecurrentState(*past))
            records.append(recorded)
        return x, self._open(x), records

    def _close(self, x: mx.array, attended: tuple[mx.array, ...]) -> mx.array:
        return x if self.closing is None else self.closing.after(x, *attended)

    def _open(self, x: mx.array) -> tuple[mx.array, ...]:
        return () if self.opening is None else tuple(self.opening[1].before(x))


def _compiles(x: mx.array) -> bool:
    return x.shape[1] <= _COMPILE_UP_TO_TOKENS and backend() is not Backend.CPU


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
            attended = self._attend(stretch, projected, attention_mask, caches)
        return self.norm(x)

    def verify(self, inputs: mx.array, cache: Sequence[Any]) -> tuple[mx.array, Verification]:
        """As a call, for tokens `[1, T]` of which a prefix will be kept: the caches stay undecided until `keep`."""
        x = self.embed_tokens(inputs)
        mask = self._masks(x, list(cache))[1]
        attended: tuple[mx.array, ...] = ()
        recurrent: list[tuple[Any, RecurrentState, Recorded]] = []
        for stretch in self._stretches:
            states = [self._state(x, layer, cache[index]) for index, layer in stretch.recurrent]
            x, projected, records = stretch.verify(x, attended, states)
            for (index, _), past, recorded in zip(stretch.recurrent, states, records, strict=True):
                recurrent.append((cache[index], past, Recorded(*recorded)))
            attended = self._attend(stretch, projected, mask, cache)
        growing = [c for c, layer in zip(cache, self.layers) if isinstance(layer, AttentionLayer)]
        return self.norm(x), Verification(growing, recurrent, inputs.shape[1])

    @staticmethod
    def _attend(
        stretch: Stretch, projected: tuple[mx.array, ...], mask: mx.array | str | None, caches: Sequence[Any]
    ) -> tuple[mx.array, ...]:
        """(attention output, gate) of the stretch's opening layer; its keys and values are in the cache."""
        if stretch.opening is None:
            return ()
        index, layer = stretch.opening
        read = Projected(*projected)
        return layer.mixer.attend(read, mask, caches[index]), read.gate

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
