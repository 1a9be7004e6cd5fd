"""Stretches: everything between two interruptions of a pass is one pure function.

Decoding is bound by the number of kernels and by building their graph. A pass is interrupted where keys and values meet their
cache, and where experts have to be fetched. What lies between is pure, and for a few tokens it is compiled as a whole: with all
experts in memory, a step of 48 layers builds 13 graphs that MLX has seen before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx

from mlx_qnext.model.attention import Projected
from mlx_qnext.model.gated_delta_net import Recorded, RecurrentState
from mlx_qnext.model.layers import AttentionLayer, RecurrentLayer
from mlx_qnext.model.moe import Routed, SparseMoe
from mlx_qnext.ops.device import Backend, backend

# A compiled graph is kept per number of tokens: worth it for decoding and verification, not for every prompt's length.
_COMPILE_UP_TO_TOKENS = 8

Layer: TypeAlias = AttentionLayer | RecurrentLayer
Arrays: TypeAlias = tuple[mx.array, ...]


@dataclass(frozen=True)
class Mix:
    """The first half of a recurrent layer, the `index`-th of all layers."""

    index: int
    layer: RecurrentLayer


@dataclass(frozen=True)
class Feed:
    """The second half of any layer."""

    layer: Layer


@dataclass(frozen=True)
class Attend:
    """An interruption: the first half of an attention layer, the `index`-th of all layers."""

    index: int
    layer: AttentionLayer

    def before(self, x: mx.array) -> Projected:
        """What the cache is asked with."""
        return self.layer.project(x)

    def after(self, x: mx.array, attended: mx.array, gate: mx.array) -> mx.array:
        """The residual stream behind it."""
        return self.layer.join(x, attended, gate)


@dataclass(frozen=True)
class Visit:
    """An interruption: the second half of a layer whose experts may have to be fetched."""

    layer: Layer
    moe: SparseMoe

    def before(self, x: mx.array) -> Routed:
        """What the experts are asked with."""
        return self.moe.route(self.layer.post_norm(x))

    def after(self, x: mx.array, visits: mx.array, *routed: mx.array) -> mx.array:
        """The residual stream behind it."""
        return x + self.moe.combine(visits, Routed(*routed))


Pure: TypeAlias = Mix | Feed
Interruption: TypeAlias = Attend | Visit


class Stretch:
    """The end of an interruption (or none), halves of layers, and the start of the next interruption (or none)."""

    def __init__(
        self, closing: Interruption | None, halves: Sequence[Pure], opening: Interruption | None
    ) -> None:
        self.closing, self.halves, self.opening = closing, halves, opening
        self.recurrent = [half for half in halves if isinstance(half, Mix)]
        self._compiled = mx.compile(self._run)
        self._compiled_verify = mx.compile(self._verify)

    def __call__(
        self, x: mx.array, answer: Arrays, states: list[RecurrentState], mask: mx.array | None
    ) -> tuple[mx.array, Arrays, list[RecurrentState]]:
        """Residual stream, what the closing interruption answered, states → stream, what the opening one is asked, states."""
        if mask is None and _compiles(x):
            return self._compiled(x, answer, states)
        return self._run(x, answer, states, mask)

    def verify(
        self, x: mx.array, answer: Arrays, states: list[RecurrentState]
    ) -> tuple[mx.array, Arrays, list[Recorded]]:
        """The same with each layer's record in place of its state after the tokens."""
        return (self._compiled_verify if _compiles(x) else self._verify)(x, answer, states)

    def _run(
        self, x: mx.array, answer: Arrays, states: list[RecurrentState], mask: mx.array | None = None
    ) -> tuple[mx.array, Arrays, list[RecurrentState]]:
        x = self._close(x, answer)
        past, after = iter(states), list[RecurrentState]()
        for half in self.halves:
            if isinstance(half, Feed):
                x = half.layer.feed(x)
                continue
            x, state = half.layer.mix(x, RecurrentState(*next(past)), mask)
            after.append(state)
        return x, self._open(x), after

    def _verify(
        self, x: mx.array, answer: Arrays, states: list[RecurrentState]
    ) -> tuple[mx.array, Arrays, list[Recorded]]:
        x = self._close(x, answer)
        past, records = iter(states), list[Recorded]()
        for half in self.halves:
            if isinstance(half, Feed):
                x = half.layer.feed(x)
                continue
            x, recorded = half.layer.verify(x, RecurrentState(*next(past)))
            records.append(recorded)
        return x, self._open(x), records

    def _close(self, x: mx.array, answer: Arrays) -> mx.array:
        return x if self.closing is None else self.closing.after(x, *answer)

    def _open(self, x: mx.array) -> Arrays:
        return () if self.opening is None else tuple(self.opening.before(x))


def _compiles(x: mx.array) -> bool:
    return x.shape[1] <= _COMPILE_UP_TO_TOKENS and backend() is not Backend.CPU


class Group:
    """What lies between two attention caches: one stretch, or several while experts have to be fetched in between."""

    def __init__(self, closing: Attend | None, halves: Sequence[Pure], opening: Attend | None) -> None:
        self._ends, self._halves = (closing, opening), halves
        forwards = [half.layer.feed_forward for half in halves if isinstance(half, Feed)]
        self._experts = [forward.experts for forward in forwards if isinstance(forward, SparseMoe)]
        self._whole: list[Stretch] = []
        self._cut: list[Stretch] = []

    def stretches(self) -> list[Stretch]:
        """The stretches to run now, in order."""
        closing, opening = self._ends
        if all(experts.complete for experts in self._experts):
            self._whole = self._whole or [Stretch(closing, self._halves, opening)]
            return self._whole
        self.release()
        self._cut = self._cut or _cut(closing, self._halves, opening)
        return self._cut

    def release(self) -> None:
        """Let go of experts: compiled, a whole stretch holds on to their arrays, and a pool may be about to replace them."""
        self._whole = []


def groups(layers: Sequence[Layer]) -> list[Group]:
    """All layers in order, as groups."""
    found: list[Group] = []
    closing: Attend | None = None
    halves: list[Pure] = []
    for index, layer in enumerate(layers):
        if isinstance(layer, RecurrentLayer):
            halves += [Mix(index, layer), Feed(layer)]
        else:
            opening = Attend(index, layer)
            found.append(Group(closing, halves, opening))
            closing, halves = opening, [Feed(layer)]
    return [*found, Group(closing, halves, None)]


def _cut(closing: Interruption | None, halves: Sequence[Pure], opening: Attend | None) -> list[Stretch]:
    """The same stretch in pieces: each mixture of experts is an interruption."""
    pieces: list[Stretch] = []
    between: list[Pure] = []
    for half in halves:
        forward = half.layer.feed_forward
        if isinstance(half, Feed) and isinstance(forward, SparseMoe):
            visit = Visit(half.layer, forward)
            pieces.append(Stretch(closing, between, visit))
            closing, between = visit, []
        else:
            between.append(half)
    return [*pieces, Stretch(closing, between, opening)]
