"""The kinds of problems, with the share each has in training."""

from __future__ import annotations

import random
from collections.abc import Callable

from demo.problem import Problem, Split, belongs_to
from demo.problems.arithmetic import add, divide, expression, multiply, subtract, total
from demo.problems.calendar import leap_year, month, month_length, weekday
from demo.problems.clock import clock
from demo.problems.knowledge import capital, opposite
from demo.problems.letters import count_letter, length, letter_case, repeat, reverse, spell
from demo.problems.ordering import alphabetical, compare, parity, sort_numbers
from demo.problems.sequences import listing, sequence
from demo.problems.stories import story
from demo.problems.talk import small_talk, too_hard, unknown_topic
from demo.problems.units import units

Maker = Callable[[random.Random], Problem]

WEIGHTS: dict[Maker, float] = {
    add: 10, subtract: 9, multiply: 10, divide: 4, total: 3, expression: 5,
    compare: 4, sort_numbers: 5, alphabetical: 3, parity: 1.5,
    reverse: 8, spell: 4, count_letter: 6, length: 3, letter_case: 2, repeat: 3,
    sequence: 7, listing: 3, units: 7,
    weekday: 4, month: 2, leap_year: 1, month_length: 1, clock: 5,
    story: 13, capital: 6, opposite: 1.5, small_talk: 6, unknown_topic: 2, too_hard: 2,
}  # fmt: skip
_MAKERS, _SHARES = list(WEIGHTS), list(WEIGHTS.values())


def draw(rng: random.Random, split: Split, maker: Maker | None = None) -> Problem:
    """Return a random problem of a split, of the given kind or of any kind by its share."""
    while True:
        problem = (maker or rng.choices(_MAKERS, _SHARES)[0])(rng)
        if belongs_to(problem, split):
            return problem
