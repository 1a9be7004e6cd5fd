"""What a round costs at each draft depth, as measured here."""

from __future__ import annotations

from collections import deque
from statistics import median

# A median of few: a pause of the machine or a slow reader of the answer spoils one measurement, not the choice.
_REMEMBERED = 9


class Costs:
    """Seconds of a round at each depth, drafting and verifying together; depth 0 is a plain step."""

    def __init__(self, deepest: int) -> None:
        self._measured: list[deque[float]] = [deque(maxlen=_REMEMBERED) for _ in range(deepest + 1)]
        self._warm = [False] * (deepest + 1)

    def add(self, depth: int, seconds: float) -> None:
        """Take a measurement; the first at each depth is let go, because graphs and kernels are compiled on the way."""
        if self._warm[depth]:
            self._measured[depth].append(seconds)
        self._warm[depth] = True

    @property
    def deepest_known(self) -> int:
        """The last depth, from 0 on without a gap, that has been measured; -1 where none has."""
        return next((d for d, seconds in enumerate(self._measured) if not seconds), len(self._measured)) - 1

    def of(self, depth: int) -> float:
        """Seconds at this depth, depth 0 having been measured; what has not been is taken to grow as it did up to there.

        Before any drafting a round counts as a plain step, so that it is tried.
        """
        if self._measured[depth]:
            return median(self._measured[depth])
        known = self.deepest_known
        plain, last = self.of(0), self.of(known)
        return last + (depth - known) * (last - plain) / max(known, 1)
