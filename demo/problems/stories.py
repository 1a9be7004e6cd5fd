"""Word problems of one or two operations."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from demo.phrasing import phrase
from demo.problem import Problem
from demo.traces import add_steps, divide_steps, multiply_line, multiply_steps, subtract_steps
from demo.words import CONTAINERS, ITEMS, NAMES, PLACES


@dataclass(frozen=True)
class Cast:
    """Who and what a story is about."""

    n: str
    m: str
    t: str
    u: str
    p: str
    h: str


@dataclass(frozen=True)
class Story:
    """A told story: its text, its operations in order, their working on one line, and the result."""

    text: str
    steps: str
    line: str
    value: int


def _small(rng: random.Random) -> int:
    return rng.randint(2, 400 if rng.random() < 0.4 else 40)


def _gaining(rng: random.Random, cast: Cast) -> Story:
    a, b = _small(rng), _small(rng)
    pattern = (
        "{n} has {a} {t}. {m} [gives|hands|brings|sends] {n} {b} more. How many {t} does {n} have [now|in total]?"
        "|{n} [found|bought|collected|picked] {a} {t} [in the morning|on Monday|at the {p}] and {b} "
        "[in the afternoon|on Tuesday|later]. How many {t} [is that|are there] in total?"
        "|There are {a} {t} in a {h}. {n} [adds|puts in] {b} more. How many {t} are in the {h}[ now|]?"
    )
    return Story(phrase(rng, pattern, a=a, b=b, **vars(cast)), add_steps(a, b), f"{a}+{b}={a + b}", a + b)


def _losing(rng: random.Random, cast: Cast) -> Story:
    b, a = sorted((_small(rng), _small(rng) + 1))
    pattern = (
        "{n} has {a} {t}. {n} [gives|sells|lends] {b} to {m}. How many {t} [are left|does {n} have left|remain]?"
        "|There [were|are] {a} {t} [at the {p}|in the {h}]. {n} [took|lost|removed|used] {b} of them. "
        "How many [are left|remain]?"
        "|{n} has {a} {t} and {m} has {b}. How many more {t} does {n} have than {m}?"
    )
    return Story(
        phrase(rng, pattern, a=a, b=b, **vars(cast)), subtract_steps(a, b), f"{a}-{b}={a - b}", a - b
    )


def _groups(rng: random.Random, cast: Cast) -> Story:
    k, j = rng.randint(2, 12), rng.randint(2, 12)
    pattern = (
        "Each {h} holds {j} {t}. How many {t} [are|fit] in {k} of them?"
        "|{n} [has|packs] {k} times {j} {t}. How many {t} [is that|are there][ in total| altogether|]?"
        "|One of the {t} costs {j} dollars. How [much|many dollars] do {k} of them cost?"
    )
    line = multiply_line(k, j) or f"{k}*{j}={k * j}"
    return Story(phrase(rng, pattern, k=k, j=j, **vars(cast)), multiply_steps(k, j), line, k * j)


def _sharing(rng: random.Random, cast: Cast) -> Story:
    k, j = rng.randint(2, 12), rng.randint(2, 20)
    pattern = (
        "{n} [shares|divides|splits] {x} {t} [equally|evenly] among {k} [friends|children|people]. "
        "How many {t} does each [one |]get?"
        "|{x} {t} are packed into {k} boxes [equally|with the same number in each]. How many {t} are in each?"
    )
    steps = divide_steps(k * j, k)
    return Story(phrase(rng, pattern, x=k * j, k=k, **vars(cast)), steps, steps, j)


def _gain_then_loss(rng: random.Random, cast: Cast) -> Story:
    a, b = _small(rng), _small(rng)
    c = rng.randint(2, a + b)
    pattern = (
        "{n} has {a} {t}, [gets|buys|finds] {b} more and [then |]gives {c} to {m}. How many {t} "
        "[does {n} have now|are left]?|There are {a} {t} [at the {p}|in the {h}]. {n} brings {b} more and {m} takes "
        "{c}. How many are there [now|at the end]?"
    )
    steps = f"{add_steps(a, b)}\n{subtract_steps(a + b, c)}"
    line = f"{a}+{b}={a + b}, {a + b}-{c}={a + b - c}"
    return Story(phrase(rng, pattern, a=a, b=b, c=c, **vars(cast)), steps, line, a + b - c)


def _change(rng: random.Random, cast: Cast) -> Story:
    k, j, rest = rng.randint(2, 12), rng.randint(2, 12), rng.randint(1, 60)
    paid = k * j + rest
    pattern = (
        "{n} [buys|bought] {k} {t} for {j} dollars each and pays with {x} dollars. How much change does {n} get?"
        "|{n} has {x} dollars and buys {k} {t} at {j} dollars each. How many dollars are left?"
    )
    steps = f"{multiply_steps(k, j)}\n{subtract_steps(paid, k * j)}"
    line = f"{multiply_line(k, j) or f'{k}*{j}={k * j}'}, {paid}-{k * j}={rest}"
    return Story(phrase(rng, pattern, k=k, j=j, x=paid, **vars(cast)), steps, line, rest)


def _times_as_many(rng: random.Random, cast: Cast) -> Story:
    a, k = rng.randint(1, 50), rng.randint(2, 12)
    pattern = (
        "{n} has {a} {t}. {m} has {k} times as many. How many {t} does {m} have?"
        "|{m} has {k} times as many {t} as {n}, who has {a}. How many does {m} have?"
    )
    line = multiply_line(a, k) or f"{a}*{k}={a * k}"
    return Story(phrase(rng, pattern, a=a, k=k, **vars(cast)), multiply_steps(a, k), line, a * k)


def _distracting(rng: random.Random, cast: Cast) -> Story:
    a, b, c = _small(rng), _small(rng), _small(rng)
    pattern = (
        "{n} has {a} {t} and {b} {u}. {m} has {c} {t}. How many {t} do they have together?"
        "|In the {p} there are {a} {t}, {b} {u} and {c} more {t}. How many {t} are there?"
    )
    return Story(
        phrase(rng, pattern, a=a, b=b, c=c, **vars(cast)), add_steps(a, c), f"{a}+{c}={a + c}", a + c
    )


_KINDS: tuple[Callable[[random.Random, Cast], Story], ...] = (
    _gaining, _losing, _groups, _sharing, _gain_then_loss, _change, _times_as_many, _distracting,
)  # fmt: skip


def story(rng: random.Random) -> Problem:
    """A word problem about people and things."""
    n, m = rng.sample(NAMES, 2)
    t, u = rng.sample(ITEMS, 2)
    told = rng.choice(_KINDS)(rng, Cast(n, m, t, u, rng.choice(PLACES), rng.choice(CONTAINERS)))
    unit = "dollars" if "dollars" in told.text or "change" in told.text else t
    answer = phrase(rng, "[{v}|The answer is {v}.|{v} {w}.|The result is {v} {w}.]", v=told.value, w=unit)
    worked = f"{told.line}. {answer}"
    return Problem(
        "story", f"story {told.text}", told.text, told.steps, answer, worked, str(told.value), told.value
    )
