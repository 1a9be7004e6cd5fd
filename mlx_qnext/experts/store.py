"""The experts of a whole model: a pool for every layer, the threads that read, and the background that fills what is free."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import mlx.core as mx

from mlx_qnext.errors import CheckpointError
from mlx_qnext.experts.arrays import writes_are_seen
from mlx_qnext.experts.files import WeightFiles
from mlx_qnext.experts.layout import StoredExperts
from mlx_qnext.experts.pool import Counts, Pool
from mlx_qnext.experts.reader import Reader

# Experts that the background reads at a time: few, so that whoever generates hardly waits for them.
_AT_ONCE = 8


class ExpertStore:
    """Pools of as many slots as planned.

    Args:
        slots: of each layer's pool, by the path of its feed-forward.

    Attributes:
        in_place: whether experts are written where MLX computes with them; otherwise each is copied there, and nothing is
            read in the background.
        asked_by_user: whether experts that are present say what will be asked for again; a measurement's do not.
    """

    def __init__(self, files: WeightFiles, slots: Mapping[str, int]) -> None:
        self.in_place = writes_are_seen()
        self.asked_by_user = True
        self.pools: dict[str, Pool] = {}
        self._reader, self._slots = Reader(files), slots
        self._background: threading.Thread | None = None
        self._stopping = threading.Event()

    def add(self, stored: StoredExperts, dtype: mx.Dtype) -> Pool:
        """The pool of one layer, with nothing in it."""
        pool = Pool(stored, self._slots[stored.path], dtype, self._reader, in_place=self.in_place)
        self.pools[stored.path] = pool
        return pool

    def pin(self) -> None:
        """Read every shared expert that stands among the others.

        Raises:
            CheckpointError: one cannot be read.
        """
        for pool in self.pools.values():
            pool.pin()

    @property
    def complete(self) -> bool:
        """Whether every expert is in memory."""
        return all(pool.complete for pool in self.pools.values())

    @property
    def counts(self) -> Counts:
        """What all pools have done so far."""
        each = [pool.counts for pool in self.pools.values()]
        return Counts(
            sum(c.hits for c in each),
            sum(c.misses for c in each),
            sum(c.read_bytes for c in each),
            sum(c.evicted for c in each),
        )

    @property
    def resident_bytes(self) -> int:
        """Bytes of all experts that are in memory."""
        return sum(pool.resident_bytes for pool in self.pools.values())

    @property
    def total_bytes(self) -> int:
        """Bytes that all experts would take in memory."""
        return sum(pool.slot_bytes * pool.stored.routed for pool in self.pools.values())

    def hottest(self) -> dict[str, list[int]]:
        """The experts that are present, by layer, the most recently used first."""
        return {path: pool.table.hottest(pool.table.slots).tolist() for path, pool in self.pools.items()}

    def fill(self, hot: Mapping[str, Sequence[int]]) -> None:
        """Begin to fill free slots in the background: with the experts that are hot, then where all find room with the
        others."""
        if self.in_place and self._background is None:
            self._background = threading.Thread(
                target=self._fill, args=(hot,), name="qnext-fill", daemon=True
            )
            self._background.start()

    def wait_until_filled(self) -> None:
        """Return when the background has nothing left to do."""
        if self._background is not None:
            self._background.join()

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Within, the background holds back, when it has finished what it is about."""
        with self._reader.awaited():
            yield

    def shrink(self, share: float, least: int) -> int:
        """Give up this share of every pool's slots, down to `least`, and read nothing in the background any more.

        Returns the bytes that are given back; whoever holds the arrays of before has let go of them when `on_replaced` returns.
        """
        self._stop_filling()
        before = self.resident_bytes
        for pool in self.pools.values():
            slots = max(least, int(pool.table.slots * (1 - share)))
            if slots < pool.table.slots:
                pool.shrink(slots)
        mx.clear_cache()
        return before - self.resident_bytes

    def close(self) -> None:
        """Return when no thread reads any more."""
        self._stop_filling()
        self._reader.close()

    def _stop_filling(self) -> None:
        self._stopping.set()
        self._reader.hurry()
        self.wait_until_filled()

    def _fill(self, hot: Mapping[str, Sequence[int]]) -> None:
        # What fails here fails again, with its sentence, for whoever visits the expert.
        try:
            for pool, experts in self._wanted(hot):
                while not self._stopping.is_set() and pool.warm(experts, _AT_ONCE):
                    pass
        except (CheckpointError, RuntimeError):
            return

    def _wanted(self, hot: Mapping[str, Sequence[int]]) -> Iterable[tuple[Pool, Sequence[int]]]:
        for path, pool in self.pools.items():
            valid = [e for e in hot.get(path, ()) if 0 <= e < pool.stored.routed]
            yield pool, valid[: pool.table.slots]
        for pool in self.pools.values():
            if pool.table.identity:
                yield pool, range(pool.stored.routed)
