"""The draft depth that is chosen is the fastest one, and none where drafting does not pay: in simulated time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from mlx_qnext.generate.costs import Costs
from mlx_qnext.generate.depth import Acceptance, DraftDepth

Chances = Sequence[float]

USELESS: Chances = (0.0, 0.0, 0.0, 0.0)
POOR: Chances = (0.3, 0.3, 0.2, 0.2)
REPORTED: Chances = (0.92, 0.91, 0.77, 0.83)
GOOD: Chances = (0.97, 0.95, 0.93, 0.92)

# Seconds of a round at depths 0 to 4, over those of a plain step.
LAUNCH_BOUND = (1.0, 1.3, 1.45, 1.6, 1.75)
MEASURED_ON_AN_H100 = (1.0, 1.5, 2.2, 2.8, 3.5)
LINEAR = (1.0, 2.1, 3.2, 4.3, 5.4)
CLIFF = (1.0, 13.0, 13.1, 13.2, 13.3)
# The embedded model's on an H100: a round cannot hide its graph's building, so that the first draft costs most.
DEAR_FIRST_DRAFT = (1.0, 2.13, 2.36, 2.52, 2.92)
MACHINES = {
    "launches": LAUNCH_BOUND,
    "H100": MEASURED_ON_AN_H100,
    "linear": LINEAR,
    "cliff": CLIFF,
    "dear first draft": DEAR_FIRST_DRAFT,
}
each_machine = pytest.mark.parametrize("costs", MACHINES.values(), ids=MACHINES.keys())


@dataclass
class Simulation:
    """Runs rounds against a choice of depths, in a time of its own, noise included."""

    costs: Sequence[float]
    chances: Callable[[int], Chances]
    depth: DraftDepth = field(default_factory=DraftDepth)
    seed: int = 0
    noise: float = 0.1

    def seconds(self, tokens: int, fixed: int | None = None) -> float:
        """How long an answer of this many tokens takes."""
        rng = random.Random(self.seed)
        self.depth.begin(fixed)
        said, time, before = 0, 0.0, 1
        while said < tokens:
            depth = self.depth.choose()
            chances = self.chances(said)
            accepted = next((i for i in range(depth) if rng.random() >= chances[i]), depth)
            spent = self.costs[depth] * rng.uniform(1 - self.noise, 1 + self.noise)
            self.depth.observe(depth, accepted, spent if depth or not before else None)
            said, time, before = said + 1 + accepted, time + spent, depth
        return time


def always(chances: Chances) -> Callable[[int], Chances]:
    return lambda _: chances


def best_fixed(costs: Sequence[float], chances: Chances, tokens: int) -> float:
    return min(Simulation(costs, always(chances)).seconds(tokens, fixed) for fixed in range(5))


@each_machine
def test_with_useless_drafts_it_costs_at_most_3_percent_over_plain_steps(costs: Sequence[float]) -> None:
    tokens = 2000
    assert Simulation(costs, always(USELESS)).seconds(tokens) < 1.03 * tokens


@each_machine
@pytest.mark.parametrize("chances", [POOR, REPORTED, GOOD], ids=["poor", "reported", "good"])
@pytest.mark.parametrize("seed", range(3))
def test_it_comes_within_5_percent_of_the_best_fixed_depth(
    costs: Sequence[float], chances: Chances, seed: int
) -> None:
    tokens = 2000
    assert Simulation(costs, always(chances), seed=seed).seconds(tokens) < 1.05 * best_fixed(
        costs, chances, tokens
    )


def test_it_goes_deeper_where_drafts_begin_to_stand_and_stops_where_they_no_longer_do() -> None:
    good_from, good_until, end = 1000, 2500, 4000
    chances = lambda said: GOOD if good_from <= said < good_until else USELESS  # noqa: E731
    time = Simulation(LAUNCH_BOUND, chances).seconds(end)
    best = best_fixed(LAUNCH_BOUND, GOOD, good_until - good_from) + end - (good_until - good_from)
    assert time < 1.1 * best


def test_what_was_learnt_serves_the_next_answer() -> None:
    simulation = Simulation(LAUNCH_BOUND, always(GOOD))
    first, second = (simulation.seconds(60) for _ in range(2))
    assert second < first


def test_a_fixed_depth_is_kept_after_the_plain_steps_that_every_answer_begins_with() -> None:
    depth, chosen = DraftDepth(), []
    for _ in range(2):
        depth.begin(3)
        for _ in range(12):
            chosen.append(depth.choose())
            depth.observe(chosen[-1], 0, 1.0)
    assert chosen == [*[0] * 4, *[3] * 8] * 2


def test_the_cost_of_a_plain_step_is_known_after_them() -> None:
    depth = DraftDepth()
    assert depth.plain_s is None
    depth.begin(2)
    for seconds in (None, 9.0, 2.0, 2.1, 50.0, 1.9, 2.0, 2.0):
        depth.observe(depth.choose(), 0, seconds)
    assert depth.plain_s == pytest.approx(2.0)


def test_a_pause_and_a_first_round_spoil_no_cost() -> None:
    costs = Costs(deepest=4)
    for seconds in (100.0, 1.0, 30.0):
        costs.add(0, seconds)
    assert costs.of(0) == 1.0


def test_a_depth_not_measured_yet_costs_what_the_deepest_measured_one_does() -> None:
    costs = Costs(deepest=4)
    for depth, seconds in enumerate((1.0, 1.5)):
        assert costs.deepest_known == depth - 1
        for measured in (99.0, seconds, seconds):
            costs.add(depth, measured)
        if depth == 0:
            assert costs.of(1) == 1.0
    assert [costs.of(d) for d in range(5)] == [1.0, 1.5, 1.5, 1.5, 1.5]


def test_a_draft_that_was_never_reached_says_nothing() -> None:
    acceptance = Acceptance()
    for _ in range(200):
        acceptance.add(4, 1)
    first, second, third, _ = acceptance.chances()
    assert first > 0.95
    assert second < 0.05
    assert third == pytest.approx(second)
    assert acceptance.tokens() == pytest.approx([1, 2, 2, 2, 2], abs=0.1)
