"""Reads experts from their files into their slots, several at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mlx_qnext.errors import CheckpointError
from mlx_qnext.experts.arrays import SlotArray
from mlx_qnext.experts.files import WeightFiles
from mlx_qnext.experts.layout import StoredArray

# An SSD needs several requests in flight for its full speed; more than this many gain nothing.
_THREADS = 8


@dataclass(frozen=True)
class Route:
    """From one stored array of every expert to the rows of a slot that it fills.

    Attributes:
        widened: whether the values are stored in half precision, and wanted in fp32.
    """

    stored: StoredArray
    into: SlotArray
    first_row: int
    widened: bool

    def place(self, slot: int) -> np.ndarray:
        """The bytes that an expert's share fills."""
        return self.into.place(slot, self.first_row, self.stored.shape[0])


class Reader:
    """Threads over the files of a checkpoint; the background reads while nobody waits for anything."""

    def __init__(self, files: WeightFiles) -> None:
        self._files = files
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="qnext-read")
        self._awaited, self._hurried = 0, False
        self._change = threading.Condition()

    def start(
        self, routes: Sequence[Route], experts: Sequence[int], slots: Sequence[int]
    ) -> Iterator[Future[int]]:
        """Begin, as this is gone through, to read each expert into its slot; the results are bytes read, and raise
        CheckpointError.

        Raises:
            CheckpointError: the reader is closed.
        """
        pairs = sorted(zip(experts, slots, strict=True))
        bounds = np.linspace(0, len(pairs), min(_THREADS, len(pairs)) + 1).astype(int)
        for a, b in pairwise(bounds):
            yield self._submitted(routes, pairs[a:b])

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """While somebody waits for what is read here, the background holds back."""
        with self._change:
            self._awaited += 1
        try:
            yield
        finally:
            with self._change:
                self._awaited -= 1
                self._change.notify_all()

    def hold_back(self) -> None:
        """Return when nobody waits for anything, or nobody may hold back any more."""
        with self._change:
            self._change.wait_for(lambda: self._hurried or not self._awaited)

    def hurry(self) -> None:
        """From now on nobody holds back, whoever waits: an interrupted visit may never say that it waits no more."""
        with self._change:
            self._hurried = True
            self._change.notify_all()

    def close(self) -> None:
        """Return when no thread reads any more and nothing is left to be read."""
        # Not cancelled: whoever waits for a read that the shutdown cancels waits for ever.
        self._threads.shutdown()
        self._files.close()

    def _submitted(self, routes: Sequence[Route], pairs: Sequence[tuple[int, int]]) -> Future[int]:
        try:
            return self._threads.submit(self._read, routes, pairs)
        except RuntimeError:
            raise CheckpointError(
                "The model is closed, and its experts are read no more: load it again."
            ) from None

    def _read(self, routes: Sequence[Route], pairs: Sequence[tuple[int, int]]) -> int:
        return sum(self._read_run(route, run) for route in routes for run in _runs(route.stored, pairs))

    def _read_run(self, route: Route, run: Sequence[tuple[int, int]]) -> int:
        """Read experts that are neighbours in their file."""
        path, offset = route.stored.places[run[0][0]]
        places = [route.place(slot) for _, slot in run]
        if not route.widened:
            return self._files.read(path, offset, [place.data for place in places])
        narrow = np.empty((len(run), route.stored.nbytes), np.uint8)
        count = self._files.read(path, offset, [narrow.data.cast("B")])
        for row, place in zip(narrow, places, strict=True):
            _widen(row, route.stored.dtype, place.view(np.float32))
        return count


def _runs(stored: StoredArray, pairs: Sequence[tuple[int, int]]) -> Iterator[Sequence[tuple[int, int]]]:
    """The pairs of expert and slot, in runs whose shares follow each other in one file."""
    start = 0
    for n in range(1, len(pairs) + 1):
        if n == len(pairs) or not _adjacent(stored, pairs[n - 1][0], pairs[n][0]):
            yield pairs[start:n]
            start = n


def _adjacent(stored: StoredArray, first: int, second: int) -> bool:
    (path, offset), (other, after) = stored.places[first], stored.places[second]
    return path == other and offset + stored.nbytes == after


def _widen(narrow: np.ndarray, dtype: str, wide: np.ndarray) -> None:
    if dtype == "F16":
        wide[:] = narrow.view(np.float16)
    else:
        np.left_shift(narrow.view(np.uint16), 16, out=wide.view(np.uint32), dtype=np.uint32)
