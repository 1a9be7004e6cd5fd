"""Chooses how many tokens to draft: as many as give most tokens per unit of time, and none where drafting does not pay.

A round at depth d yields 1 + a_1 + a_1 a_2 + … + a_1…a_d tokens on average, a_i being the chance that draft i stands if those
before it do. Chances are decayed averages, costs are measured. Nothing here knows a clock or a model.
"""

from __future__ import annotations

from collections.abc import Iterator

from mlx_qnext.generate.costs import Costs
from mlx_qnext.generate.request import DEEPEST_DRAFT

# Plain steps at the start of every answer: they say what drafting is compared with.
_CALIBRATION_STEPS = 4
# How much faster than plain steps drafting must be; below, noise decides.
_WORTHWHILE = 1.02
# Plain steps before drafting is tried again: few at first, then twice as many after every trial that fails, and at any rate so
# many that a trial costs no more than this share of them.
_FIRST_REST, _LONGEST_REST = 16, 256
_TRIAL_SHARE = 0.01


class Acceptance:
    """How likely draft i stands where the ones before it do, from the rounds of late."""

    # A round of 25 rounds ago counts a third of one now.
    _DECAY = 0.96
    # What is unknown at depth 1, and counts as much as one draft there; deeper, the depth before says it.
    _PRIOR, _PRIOR_WEIGHT = 0.8, 1.0

    def __init__(self) -> None:
        self._tried = [0.0] * DEEPEST_DRAFT
        self._stood = [0.0] * DEEPEST_DRAFT

    def add(self, depth: int, accepted: int) -> None:
        """Take a round: of `depth` drafts the first `accepted` stood."""
        for i in range(DEEPEST_DRAFT):
            tried, stood = i < min(accepted + 1, depth), i < accepted
            self._tried[i] = self._tried[i] * self._DECAY + tried
            self._stood[i] = self._stood[i] * self._DECAY + stood

    def chances(self) -> Iterator[float]:
        """a_1, a_2, …; where little is known, close to the one before."""
        chance = self._PRIOR
        for tried, stood in zip(self._tried, self._stood, strict=True):
            chance = (stood + self._PRIOR_WEIGHT * chance) / (tried + self._PRIOR_WEIGHT)
            yield chance

    def tokens(self) -> list[float]:
        """Expected tokens of a round at depths 0 … DEEPEST_DRAFT."""
        expected, standing = [1.0], 1.0
        for chance in self.chances():
            standing *= chance
            expected.append(expected[-1] + standing)
        return expected


class DraftDepth:
    """The depth of every next round. What was learnt is kept from answer to answer."""

    # A trial goes on while its drafts stand, until as much is known as this.
    _LEARNT = 0.9

    def __init__(self) -> None:
        self._costs, self._acceptance = Costs(DEEPEST_DRAFT), Acceptance()
        self._fixed: int | None = None
        self._calibrating = 0
        self._rested, self._rest = 0, _FIRST_REST

    def begin(self, fixed: int | None) -> None:
        """Start an answer at a fixed depth, or at a chosen one for `None`; either begins with a few plain steps."""
        self._fixed, self._calibrating = fixed, _CALIBRATION_STEPS

    def choose(self) -> int:
        """How many tokens to draft next; 0 is a plain step."""
        if self._calibrating or self._costs.deepest_known < 0:
            return 0
        if self._fixed is not None:
            return self._fixed
        return self._fastest() or int(self._trying)

    def observe(self, depth: int, accepted: int, seconds: float | None) -> None:
        """Take what the round came to; `seconds` is `None` where its time was not its own."""
        if seconds is not None:
            self._costs.add(depth, seconds)
        if depth == 0:
            self._calibrating = max(self._calibrating - 1, 0)
            self._rested += 1
            return
        self._acceptance.add(depth, accepted)
        self._settle(accepted)

    @property
    def plain_s(self) -> float | None:
        """Seconds of a plain step; `None` before one was measured."""
        return self._costs.of(0) if self._costs.deepest_known >= 0 else None

    @property
    def _trying(self) -> bool:
        return self._rested >= self._rest

    def _fastest(self) -> int:
        """The depth of most tokens a second; one depth more than has been measured is a candidate too."""
        reachable = min(self._costs.deepest_known + 1, DEEPEST_DRAFT)
        rates = [tokens / self._costs.of(d) for d, tokens in enumerate(self._acceptance.tokens())]
        best = max(range(1, reachable + 1), key=rates.__getitem__)
        return best if rates[best] > _WORTHWHILE * rates[0] else 0

    def _settle(self, accepted: int) -> None:
        """Decide, after a round, how long plain steps would go on if drafting did not pay now."""
        costs = [self._costs.of(d) / self._costs.of(0) for d in range(DEEPEST_DRAFT + 1)]
        if not any(d + 1 > cost for d, cost in enumerate(costs[1:], 1)):
            rest = _LONGEST_REST  # not even where every draft stands
        elif not self._trying:
            rest = _FIRST_REST
        elif accepted and next(self._acceptance.chances()) < self._LEARNT:
            return
        else:
            rest = min(2 * self._rest, _LONGEST_REST)
        self._rested, self._rest = 0, max(rest, round((costs[1] - 1) / _TRIAL_SHARE))
