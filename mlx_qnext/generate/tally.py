"""Counts what drafting came to in one answer."""

from __future__ import annotations

from mlx_qnext.generate.events import MtpStats
from mlx_qnext.generate.request import DEEPEST_DRAFT


class Tally:
    """Told of every pass of the model over the answer."""

    def __init__(self) -> None:
        self._passes = self._rounds = self._accepted = 0
        self._drafted_at, self._stood_at = [0] * DEEPEST_DRAFT, [0] * DEEPEST_DRAFT

    def add(self, drafted: int, accepted: int) -> None:
        """Take a pass: of `drafted` tokens, 0 in a plain step, the first `accepted` stood."""
        self._passes += 1
        self._rounds += drafted > 0
        self._accepted += accepted
        for i in range(drafted):
            self._drafted_at[i] += 1
            self._stood_at[i] += i < accepted

    def stats(self, decode_tps: float, plain_s: float | None) -> MtpStats:
        """The answer's figures, given its tokens per second and the seconds of a plain step."""
        drafted = [count for count in self._drafted_at if count]
        return MtpStats(
            rounds=self._rounds,
            drafted=sum(drafted),
            accepted=self._accepted,
            acceptance=tuple(stood / count for stood, count in zip(self._stood_at, drafted)),
            tokens_per_step=1 + self._accepted / self._passes if self._passes else 0.0,
            speedup_estimate=decode_tps * plain_s if plain_s and decode_tps else None,
        )
