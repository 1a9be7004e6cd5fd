"""From a cache and its snapshots to named arrays and plain facts, and back.

Names: `layers.N.keys`, `.values` (with `.0 .1 .2`, the packed integers, scales and biases, where they are quantised),
`layers.N.window`, `.state`; `head.keys`, `head.values`, `head.waiting`; and `snapshots.N.` before what a snapshot has of its
own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import mlx.core as mx

from mlx_qnext.cache.frozen import Frozen
from mlx_qnext.cache.head import HeadCache, HeadMark
from mlx_qnext.cache.hybrid import HybridCache, Snapshot
from mlx_qnext.cache.kv import GrowingCache
from mlx_qnext.cache.shapes import CacheShapes, check_entries, check_shapes
from mlx_qnext.mlx_lm_parts import ArraysCache

_STATES = ("window", "state")


def freeze(cache: HybridCache, snapshots: Sequence[Snapshot]) -> Frozen:
    """Everything that `thaw` needs; the arrays are unevaluated copies of no more than is in use."""
    arrays = _kept(cache)
    facts: dict[str, Any] = {"position": cache.position, "snapshots": []}
    if cache.head is not None:
        facts["head"] = _freeze_head(cache.head, arrays)
    for number, snapshot in enumerate(snapshots):
        prefix = f"snapshots.{number}."
        # What the layers hold now is there already.
        states_of = snapshot.states if snapshot.position != cache.position else ()
        for at, states in zip(_recurrent_indices(cache), states_of):
            arrays |= _named(f"{prefix}layers.{at}.", states)
        if snapshot.hidden is not None:
            arrays[f"{prefix}hidden"] = snapshot.hidden
        facts["snapshots"].append(
            {"position": snapshot.position, "head": _freeze_mark(snapshot.head, prefix, arrays)}
        )
    return Frozen(arrays, facts)


def thaw(frozen: Frozen, cache: HybridCache, shapes: CacheShapes) -> list[Snapshot]:
    """Fill an empty cache of these shapes with what was frozen of another one like it; returns the snapshots.

    Raises:
        ValueError: it is not what `freeze` gives for such a cache.
    """
    try:
        return _Thawing(frozen.arrays, cache, shapes).thaw(frozen.facts)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"it lacks {error}") from None


def _kept(cache: HybridCache) -> dict[str, mx.array]:
    arrays: dict[str, mx.array] = {}
    for at, layer in enumerate(cache.layers):
        if isinstance(layer, ArraysCache):
            arrays |= _named(f"layers.{at}.", layer.cache)
        else:
            arrays |= _freeze_growing(f"layers.{at}.", layer)
    return arrays


def _named(prefix: str, states: Sequence[mx.array | None]) -> dict[str, mx.array]:
    """A recurrent layer's arrays by name; none before the first token."""
    return {
        f"{prefix}{name}": array for name, array in zip(_STATES, states, strict=True) if array is not None
    }


def _freeze_growing(prefix: str, layer: GrowingCache) -> dict[str, mx.array]:
    if layer.keys is None:
        return {}
    named = {f"{prefix}keys": layer.keys, f"{prefix}values": layer.values}
    parts = {
        name if isinstance(stored, mx.array) else f"{name}.{n}": part
        for name, stored in named.items()
        for n, part in enumerate((stored,) if isinstance(stored, mx.array) else stored)
    }
    return {name: mx.contiguous(part[..., : layer.offset, :]) for name, part in parts.items()}


def _freeze_head(head: HeadCache, arrays: dict[str, mx.array]) -> dict[str, int]:
    arrays |= _freeze_growing("head.", head.kv)
    return _freeze_mark(head.mark(), "head.", arrays) or {}


def _freeze_mark(mark: HeadMark | None, prefix: str, arrays: dict[str, mx.array]) -> dict[str, int] | None:
    if mark is None:
        return None
    if mark.waiting:
        arrays[f"{prefix}waiting"] = mx.concatenate(list(mark.waiting), axis=1)
    return {"entries": mark.entries, "waiting": sum(states.shape[1] for states in mark.waiting)}


def _recurrent_indices(cache: HybridCache) -> list[int]:
    return [at for at, layer in enumerate(cache.layers) if isinstance(layer, ArraysCache)]


class _Thawing:
    """One cache as it is filled."""

    def __init__(self, arrays: Mapping[str, mx.array], cache: HybridCache, shapes: CacheShapes) -> None:
        self._arrays, self._cache, self._shapes = arrays, cache, shapes

    def thaw(self, facts: Mapping[str, Any]) -> list[Snapshot]:
        position = _count(facts["position"])
        for at, layer in enumerate(self._cache.layers):
            if isinstance(layer, ArraysCache):
                layer.cache = list(self._states(f"layers.{at}.", position))
            elif position:
                self._grow(layer, f"layers.{at}.", position, self._shapes.entries)
        self._cache.position = position
        self._thaw_head(facts.get("head"))
        snapshots = [self._snapshot(n, of) for n, of in enumerate(facts["snapshots"])]
        positions = [0, *(snapshot.position for snapshot in snapshots)]
        if any(a >= b for a, b in pairwise(positions)) or positions[-1] > position:
            raise ValueError("its positions contradict each other")
        return snapshots

    def _thaw_head(self, facts: Any) -> None:
        if (self._cache.head is None) != (facts is None):
            raise ValueError("only one of the two has an MTP head")
        if self._cache.head is None:
            return
        mark = self._mark(facts, "head.")
        if mark.entries:
            self._grow(self._cache.head.kv, "head.", mark.entries, self._shapes.head_entries)
        self._cache.head.waiting = list(mark.waiting)

    def _snapshot(self, number: int, facts: Mapping[str, Any]) -> Snapshot:
        prefix, position = f"snapshots.{number}.", _count(facts["position"])
        now = position == self._cache.position
        states = tuple(
            self._states(f"layers.{at}." if now else f"{prefix}layers.{at}.", position)
            for at in _recurrent_indices(self._cache)
        )
        head = None if facts["head"] is None else self._mark(facts["head"], prefix)
        hidden = self._arrays.get(f"{prefix}hidden")
        if hidden is not None:
            check_shapes(f"{prefix}hidden", [hidden], [(1, 1, self._shapes.hidden)])
        return Snapshot(position, states, head, hidden)

    def _mark(self, facts: Mapping[str, Any], prefix: str) -> HeadMark:
        entries, waiting = _count(facts["entries"]), _count(facts["waiting"])
        if not waiting:
            return HeadMark(entries, ())
        states = self._arrays[f"{prefix}waiting"]
        check_shapes(f"{prefix}waiting", [states], [(1, waiting, self._shapes.hidden)])
        return HeadMark(entries, (states,))

    def _states(self, prefix: str, position: int) -> tuple[mx.array | None, ...]:
        if not position:
            return (None,) * len(_STATES)
        states = [self._arrays[f"{prefix}{name}"] for name in _STATES]
        for name, state, shape in zip(_STATES, states, self._shapes.states, strict=True):
            check_shapes(f"{prefix}{name}", [state], [shape])
        return tuple(states)

    def _grow(
        self, layer: GrowingCache, prefix: str, entries: int, shapes: Sequence[tuple[int, int]]
    ) -> None:
        layer.keys, layer.values = (
            self._stored(f"{prefix}{name}", entries, shapes) for name in ("keys", "values")
        )
        layer.offset = entries

    def _stored(
        self, name: str, entries: int, shapes: Sequence[tuple[int, int]]
    ) -> mx.array | tuple[mx.array, ...]:
        whole = len(shapes) == 1
        parts = tuple(self._arrays[part] for part in ([name] if whole else [f"{name}.{n}" for n in range(3)]))
        check_entries(name, parts, shapes, entries)
        return parts[0] if whole else parts


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number of tokens")
    return value
