"""Keys and values of sequences that decode together: those of like lengths lie in one array, a row each.

A step gives every row one entry and asks it with one query, so that a layer takes as many kernels for many sequences as for
one. A row begins with its first entry, and what lies behind its last is masked. All rows of a shelf have the same room, a power
of two, and a sequence that has filled its row moves to the next shelf: of any but the shortest, less than half is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import mlx.core as mx

from mlx_qnext.cache.kv import GROWING_CACHES, GrowingCache, parts_of

SHORTEST_ROW = 256

Parts: TypeAlias = tuple[mx.array, ...]


def row_entries(tokens: int) -> int:
    """For how many entries a row has room that holds so many tokens and is about to gain another."""
    return max(SHORTEST_ROW, 1 << tokens.bit_length())


class Rows:
    """The rows of one attention layer; for a step they take the place of its cache.

    Attributes:
        keys, values: `[B, Hk, room, …]`; quantised ones are packed integers, scales and biases.
        group_size, bits: how entries are quantised; `None` where they are plain.
        offset: where the next entry of each goes, `[B]`. longest: how many entries the longest has then. each: the numbers of
            all rows, `[B]`.
    """

    def __init__(self, keys: Parts, values: Parts, group_size: int | None, bits: int | None) -> None:
        self.keys, self.values = keys, values
        self.group_size, self.bits = group_size, bits
        self.offset = self.each = mx.zeros(len(keys[0]), dtype=mx.int32)
        self.longest = 0

    @classmethod
    def of(cls, cache: GrowingCache) -> Rows:
        """One row, with the entries of a cache that has some."""
        row = cls(
            parts_of(cache.keys),
            parts_of(cache.values),
            getattr(cache, "group_size", None),
            getattr(cache, "bits", None),
        )
        return row.mapped(lambda part: part[:, :, : cache.offset])

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        """Give each row an entry, `[B, Hk, 1, D]`; returns all keys and values up to `longest`, as a cache does."""
        return self._appended(self.keys, keys), self._appended(self.values, values)

    def mapped(self, function: Callable[[mx.array], mx.array]) -> Rows:
        """Rows of the same kind, whose arrays are made of these."""
        keys, values = (tuple(function(part) for part in parts) for parts in (self.keys, self.values))
        return Rows(keys, values, self.group_size, self.bits)

    def above(self, others: Rows) -> Rows:
        """These, and then the others."""
        keys, values = (
            tuple(mx.concatenate([*pair]) for pair in zip(a, b, strict=True))
            for a, b in ((self.keys, others.keys), (self.values, others.values))
        )
        return Rows(keys, values, self.group_size, self.bits)

    def fill(self, cache: GrowingCache) -> None:
        """Make the only row's entries those of a cache."""
        cache.keys, cache.values = (
            parts[0] if self.bits is None else parts for parts in (self.keys, self.values)
        )
        cache.offset = self.keys[0].shape[2]

    def _appended(self, held: Parts, entries: mx.array) -> Any:
        packed = self.bits is not None
        stored = mx.quantize(entries, group_size=self.group_size, bits=self.bits) if packed else (entries,)
        for part, entry in zip(held, stored, strict=True):
            part[self.each, :, self.offset] = entry[:, :, 0]
        read = tuple(part[:, :, : self.longest] for part in held)
        return read if packed else read[0]


class Reading(NamedTuple):
    """What a layer attends to at once.

    Attributes:
        sequences: the numbers of those whose rows they are, `[B]`; `None` where it is every one, in order.
        mask: which entries are a row's own, `[B, 1, 1, longest]`; `None` where it is every one.
    """

    sequences: mx.array | None
    mask: mx.array | None
    rows: Rows


@dataclass(eq=False)
class _Place:
    """One sequence's, on whatever shelf."""

    length: int


@dataclass(eq=False)
class _Shelf:
    """Rows of all layers, by the layer's number; places in the order of the rows.

    `sequences` and `mask` are those of this step.
    """

    room: int
    places: list[_Place]
    layers: dict[int, Rows]
    sequences: mx.array | None = None
    mask: mx.array | None = None


class Shelves:
    """The keys and values of all sequences, which are numbered from 0 in the order in which they came."""

    def __init__(self) -> None:
        self._places: list[_Place] = []
        self._shelves: list[_Shelf] = []
        self._order: mx.array | None = None

    def add(self, layers: Sequence[Any]) -> None:
        """Hold what the growing ones of a sequence's caches hold, as the last sequence's; they hold it no more."""
        growing = _growing(layers)
        place = _Place(next(iter(growing.values())).offset)
        self._places.append(place)
        self._put(place, {index: Rows.of(cache) for index, cache in growing.items()})
        for cache in growing.values():
            cache.keys = cache.values = None

    def remove(self, number: int, layers: Sequence[Any]) -> None:
        """Give a sequence's entries back to its caches; those after it move up."""
        taken = self._take(self._places.pop(number))
        for index, cache in _growing(layers).items():
            taken[index].fill(cache)

    def begin_step(self) -> None:
        """Every sequence gains one entry in each layer from here on."""
        for shelf in self._shelves[:]:
            for place in [place for place in shelf.places if place.length == shelf.room]:
                self._put(place, self._take(place))
        numbers: list[int] = []
        for shelf in self._shelves:
            numbers += self._prepare(shelf)
        everyone = list(range(len(self._places)))
        self._order = None if numbers == everyone else mx.argsort(mx.array(numbers))

    def readings(self, layer: int) -> list[Reading]:
        """What the layer attends to in this step, in parts where lengths are far apart."""
        return [Reading(shelf.sequences, shelf.mask, shelf.layers[layer]) for shelf in self._shelves]

    def in_order(self, attended: Sequence[mx.array]) -> mx.array:
        """What came of each reading, `[B, …]`, as one array by the sequences' numbers."""
        joined = attended[0] if len(attended) == 1 else mx.concatenate(list(attended))
        return joined if self._order is None else joined[self._order]

    def _prepare(self, shelf: _Shelf) -> list[int]:
        """The numbers of the shelf's sequences, each of which is an entry longer from now on."""
        lengths = [place.length for place in shelf.places]
        offset, longest, each = mx.array(lengths), max(lengths) + 1, mx.arange(len(lengths))
        for rows in shelf.layers.values():
            rows.offset, rows.longest, rows.each = offset, longest, each
        for place in shelf.places:
            place.length += 1
        even = min(lengths) == max(lengths)
        shelf.mask = None if even else (mx.arange(longest) <= offset[:, None])[:, None, None]
        numbers = [self._places.index(place) for place in shelf.places]
        shelf.sequences = None if numbers == list(range(len(self._places))) else mx.array(numbers)
        return numbers

    def _put(self, place: _Place, layers: dict[int, Rows]) -> None:
        room = row_entries(place.length)
        shelf = next((shelf for shelf in self._shelves if shelf.room == room), None)
        if shelf is None:
            shelf = _Shelf(room, [], {})
            self._shelves.append(shelf)
        while layers:
            # Taken out, so that of a row that moves only one layer is there twice.
            index, row = layers.popitem()
            added = row.mapped(lambda part: _padded(part, room))
            shelf.layers[index] = _there(shelf.layers[index].above(added) if index in shelf.layers else added)
        shelf.places.append(place)

    def _take(self, place: _Place) -> dict[int, Rows]:
        """The place's entries alone, which are gone from its shelf."""
        shelf = next(shelf for shelf in self._shelves if place in shelf.places)
        at = shelf.places.index(place)
        others = [row for row in range(len(shelf.places)) if row != at]
        del shelf.places[at]
        if not others:
            self._shelves.remove(shelf)
        taken: dict[int, Rows] = {}
        for index, rows in shelf.layers.items():
            taken[index] = _chosen(rows, [at]).mapped(lambda part: part[:, :, : place.length])
            shelf.layers[index] = _chosen(rows, others)
        return taken


def _growing(layers: Sequence[Any]) -> dict[int, GrowingCache]:
    return {index: cache for index, cache in enumerate(layers) if isinstance(cache, GROWING_CACHES)}


def _padded(part: mx.array, room: int) -> mx.array:
    return mx.pad(part, [(0, 0), (0, 0), (0, room - part.shape[2]), (0, 0)])


def _chosen(rows: Rows, at: list[int]) -> Rows:
    chosen = mx.array(at, dtype=mx.uint32)
    return _there(rows.mapped(lambda part: part[chosen]))


def _there(rows: Rows) -> Rows:
    """The rows, computed: one layer after another, its old arrays and its new ones are there at a time."""
    mx.eval(rows.keys, rows.values)
    return rows
