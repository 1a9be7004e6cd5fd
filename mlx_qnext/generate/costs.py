"""What a round costs at each draft depth, as measured here."""

from __future__ import annotations

from collections import deque
from statistics import median_low

# A median of few: a pause of the machine or a slow reader of the answer spoils one measurement, not the choice. The lower
# one, because of two measurements the longer is the one that was disturbed.
_REMEMBERED, _ENOUGH = 9, 2


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
        """The last depth, from 0 on without a gap, that has been measured often enough; -1 where none has."""
        short = (d for d, seconds in enumerate(self._measured) if len(seconds) < _ENOUGH)
        return next(short, len(self._measured)) - 1

    def of(self, depth: int) -> float:
        """Seconds at this depth, where depth 0 is known. What is not known yet is taken to cost as much as the deepest that is:
        so it is tried where its tokens would be worth that, and a dear first draft hides no cheap second one."""
        return median_low(self._measured[min(depth, self.deepest_known)])
