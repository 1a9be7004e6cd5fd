"""The experts of one layer in memory: slots, and what is read into them.

A visit names experts and is served in waves: first those that are present, while the others are read; then those that were
read. A slot is written to only when every computation that read it has finished, which is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_qnext.errors import UnsupportedModelError
from mlx_qnext.experts.arrays import SlotArray
from mlx_qnext.experts.layout import StoredArray, StoredExperts
from mlx_qnext.experts.reader import Reader, Route
from mlx_qnext.experts.slots import SlotTable
from mlx_qnext.experts.visits import Visits, Wave
from mlx_qnext.ops.matrix import Matrix
from mlx_qnext.quantization import Precision

_DTYPES = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32, "U32": mx.uint32}

# Visits of more experts than this are served in waves of a few, so that reading and computing overlap and the workspace is
# small.
_ONE_WAVE = 64
WAVE_EXPERTS = 16


@dataclass
class Counts:
    """What a pool has done: experts asked for that were present or not, bytes read for those, experts evicted."""

    hits: int = 0
    misses: int = 0
    read_bytes: int = 0
    evicted: int = 0


@dataclass(frozen=True)
class _Batch:
    """Experts on their way into slots."""

    experts: np.ndarray
    slots: np.ndarray
    reads: list[Future[int]]


@dataclass(frozen=True)
class _Part:
    """A matrix of every slot: one projection, or two of the same kind joined by rows."""

    precision: Precision | None
    arrays: dict[str, SlotArray]

    def matrix(self) -> Matrix:
        found = {name: array.array for name, array in self.arrays.items()}
        return Matrix(**found, precision=self.precision)


class Pool:
    """Slots for the experts of one layer.

    Args:
        slots: how many of the routed experts can be present at once.
        dtype: of everything that is not packed.

    Attributes:
        on_replaced: called when `gate_up` and `down` give other arrays than before.
    """

    def __init__(
        self, stored: StoredExperts, slots: int, dtype: mx.Dtype, reader: Reader, *, in_place: bool
    ) -> None:
        self.stored, self.counts = stored, Counts()
        self.on_replaced: Callable[[], None] = lambda: None
        self._dtype, self._reader, self._in_place = dtype, reader, in_place
        self._guarded: dict[int, mx.array] = {}
        self._number = 0
        # What the visit at hand waits for. Not in its frame: an interruption may come before a name is bound there.
        self._underway: _Batch | None = None
        self._absent = np.zeros(0, np.int64)
        self._open(slots)

    @property
    def complete(self) -> bool:
        """Whether every expert is in the slot of its own number."""
        return self.table.complete

    @property
    def slot_bytes(self) -> int:
        """Bytes of one expert in memory."""
        return sum(array.slot_bytes for part in self._parts for array in part.arrays.values())

    @property
    def resident_bytes(self) -> int:
        """Bytes of the experts that are present."""
        return self.slot_bytes * self.table.present

    def gate_up(self) -> list[Matrix]:
        """Gate and up of every slot, as one matrix where they are stored alike, else as two."""
        return [part.matrix() for part in self._parts[:-1]]

    def down(self) -> Matrix:
        """Down of every slot."""
        return self._parts[-1].matrix()

    def pin(self) -> None:
        """Read the shared expert, where it stands behind the others, into its slot.

        Raises:
            CheckpointError: it cannot be read.
        """
        if self.stored.has_shared:
            slot = self.table.slots
            for read in self._reader.start(self._routes, [self.stored.routed], [slot]):
                read.result()
            self._land(np.array([slot]))

    def serve(self, ids: np.ndarray, certain: int | None = None) -> Iterator[Wave]:
        """Waves that together hold every visit of `ids` `[T, K]` once; the caller passes each one's output to `using`.

        Experts of the first `certain` tokens, or of all, count as used; those of the others do when `promote` says so, and
        what was read for them alone is first to go.

        Raises:
            CheckpointError: an expert cannot be read. The pool is sound, and a later visit may find the file again.
        """
        self.finish()
        visits = Visits(ids, self.stored.routed + 1)
        present, self._absent = self.table.take_on(visits.experts)
        self.counts.hits += int((present < self.stored.routed).sum())
        self.counts.misses += len(self._absent)
        if len(self._absent) or ids.size >= _ONE_WAVE:
            with self._reader.awaited():
                yield from self._serve_in_waves(visits, present)
        else:
            yield Wave(np.arange(ids.size), self.table.slots_of(ids.reshape(-1)))
        self._undecided = ids[:0] if certain is None else ids[certain:]
        self._use(ids[: len(ids) - len(self._undecided)])

    def promote(self, count: int) -> None:
        """Of the tokens of the last visit that were not certain, the first `count` are."""
        self._use(self._undecided[:count])

    def using(self, slots: np.ndarray, output: mx.array) -> None:
        """Begin to compute an output that reads these slots: they are not written to before it is finished."""
        mx.async_eval(output)
        self._number += 1
        self._guarded[self._number] = output
        self._guard_of[slots] = self._number
        # Further behind, a finished output would only take up memory.
        self._finish_to(self._number - 2)

    def finish(self) -> None:
        """Wait for every output that reads a slot, and give up what an interrupted visit waited for."""
        self._finish_to(self._number)
        self._give_up()

    def warm(self, experts: Sequence[int], most: int) -> int:
        """Read up to `most` of the experts, the first that are absent, into free slots; returns how many, 0 where none.

        For the background: it may run beside everything else.

        Raises:
            CheckpointError: they cannot be read.
        """
        self._reader.hold_back()
        claimed, slots = self.table.claim(experts, most)
        batch = _Batch(claimed, slots, [])
        try:
            if len(claimed):
                self._start(batch)
                self._settle(batch)
        except BaseException:
            self._await(batch)
            raise
        return len(claimed)

    def shrink(self, slots: int) -> None:
        """Hold at most this many experts from now on, those used last; `on_replaced` is called when the arrays are others.

        While this layer's experts are copied, both its old and its new arrays are in memory.
        """
        self.finish()
        kept = self.table.hottest(slots)[::-1]
        old, sources = self._parts, self.table.slots_of(kept)
        if self.stored.has_shared:
            sources = np.append(sources, self.table.slots)
        self.counts.evicted += self.table.present - len(kept)
        self._open(slots)
        self.table.seed(kept)
        places = np.arange(len(kept))
        if self.stored.has_shared:
            places = np.append(places, self.table.slots)
        for part, before in zip(self._parts, old, strict=True):
            for name, array in part.arrays.items():
                array.copy(places, before.arrays[name], sources)
        self.on_replaced()

    def _open(self, slots: int) -> None:
        """Slots, all of them empty."""
        self.table = SlotTable(self.stored.routed, slots, shared=self.stored.has_shared)
        total = self.table.slots + self.stored.has_shared
        self._parts, self._routes = _allocate(self.stored, total, self._dtype, in_place=self._in_place)
        self._guard_of = np.zeros(total, np.int64)
        self._undecided = np.zeros((0, 1), np.int64)

    def _serve_in_waves(self, visits: Visits, present: np.ndarray) -> Iterator[Wave]:
        """What is present, then what is brought: each batch is read while the wave before it is computed."""
        needed = np.zeros(self.stored.routed + 1, bool)
        needed[present] = True
        try:
            self._absent = visits.busiest_last(self._absent)
            size = self._wave_size(len(present), len(self._absent), self.table.room(present))
            for start in range(0, len(present), size):
                self._bring(size, needed, visits.counts)
                wave = present[start : start + size]
                yield visits.wave(wave, self.table.slots_of(wave))
                needed[wave] = False
            while self._underway is not None or len(self._absent):
                arrived = self._receive(size, needed, visits.counts)
                needed[arrived.experts] = True
                self._bring(size, needed, visits.counts)
                yield visits.wave(arrived.experts, arrived.slots)
                needed[arrived.experts] = False
        finally:
            self._give_up()

    def _wave_size(self, present: int, absent: int, room: int) -> int:
        """Experts a wave: all at once where they are few and find room, else so few that two waves find room."""
        if present + absent <= _ONE_WAVE and absent <= room:
            return _ONE_WAVE
        return max(1, min(WAVE_EXPERTS, self.table.slots // 2))

    def _bring(self, size: int, needed: np.ndarray, visits: np.ndarray) -> None:
        """Where no batch is on its way, begin to read the next one into the slots that there are for it."""
        if self._underway is not None or not len(self._absent):
            return
        slots, evicted = self.table.give(self._absent[:size], np.flatnonzero(needed), visits)
        if not len(slots):
            return
        self._underway = _Batch(self._absent[: len(slots)], slots, [])
        self._absent = self._absent[len(slots) :]
        self.counts.evicted += evicted
        self._finish_to(int(self._guard_of[slots].max()))
        self._start(self._underway)

    def _receive(self, size: int, needed: np.ndarray, visits: np.ndarray) -> _Batch:
        """The batch that is on its way, or else the next one, when it has arrived."""
        if self._underway is None:
            self.table.await_room(np.flatnonzero(needed))
        self._bring(size, needed, visits)
        assert self._underway is not None
        batch = self._underway
        self.counts.read_bytes += self._settle(batch)
        self._underway = None
        return batch

    def _give_up(self) -> None:
        """Nothing is waited for any more: what has not arrived is absent."""
        if self._underway is not None:
            self._await(self._underway)
            self._underway = None
        self.table.failed(self._absent)
        self._absent = self._absent[:0]

    def _start(self, batch: _Batch) -> None:
        # One by one: of an interrupted batch, those that have begun are known.
        batch.reads.extend(self._reader.start(self._routes, batch.experts.tolist(), batch.slots.tolist()))

    def _settle(self, batch: _Batch) -> int:
        """Wait until the batch has arrived; returns the bytes read.

        Raises:
            CheckpointError: it cannot be read.
        """
        wait(batch.reads)
        count = sum(read.result() for read in batch.reads)
        self._land(batch.slots)
        self.table.arrived(batch.experts, batch.slots)
        return count

    def _await(self, batch: _Batch) -> None:
        """Wait until nothing of the batch is written any more, and count those that have not arrived as absent."""
        wait(batch.reads)
        self.table.failed(batch.experts, batch.slots)

    def _land(self, slots: np.ndarray) -> None:
        for part in self._parts:
            for array in part.arrays.values():
                for slot in slots.tolist():
                    array.land(slot)

    def _use(self, ids: np.ndarray) -> None:
        visits = Visits(ids, self.stored.routed + 1)
        self.table.touch(visits.busiest_last(visits.experts))

    def _finish_to(self, number: int) -> None:
        """Wait for the outputs up to this one, in the order they were begun."""
        for begun in [n for n in self._guarded if n <= number]:
            mx.eval(self._guarded.pop(begun))


def _allocate(
    stored: StoredExperts, slots: int, dtype: mx.Dtype, *, in_place: bool
) -> tuple[list[_Part], list[Route]]:
    """Gate and up (joined where they are alike) and down of every slot, and how an expert gets there."""
    joined = stored.gate.alike(stored.up)
    groups = [[stored.gate, stored.up]] if joined else [[stored.gate], [stored.up]]
    parts: list[_Part] = []
    routes: list[Route] = []
    for group in [*groups, [stored.down]]:
        arrays: dict[str, SlotArray] = {}
        for n, example in enumerate(group[0].arrays):
            rows = sum(projection.rows for projection in group)
            kept = _DTYPES[example.dtype] if example.dtype == "U32" else dtype
            array = SlotArray(slots, rows, example.shape[-1], kept, in_place=in_place)
            arrays[example.name] = array
            first_row = 0
            for projection in group:
                routes.append(_route(projection.arrays[n], array, first_row, kept))
                first_row += projection.rows
        parts.append(_Part(group[0].precision, arrays))
    return parts, routes


def _route(stored: StoredArray, into: SlotArray, first_row: int, kept: mx.Dtype) -> Route:
    found = _DTYPES[stored.dtype]
    if found != kept and kept != mx.float32:
        raise UnsupportedModelError(
            f"Experts are stored in {stored.dtype} and the rest of the model in another half precision, and experts are only "
            "read one by one where both are the same: choose another conversion of the model."
        )
    return Route(stored, into, first_row, widened=found != kept)
