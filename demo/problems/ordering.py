"""Comparing, sorting and telling even from odd."""

from __future__ import annotations

import random

from demo.phrasing import phrase, question
from demo.problem import Problem
from demo.words import EVERYDAY, number


def _compare_steps(a: int, b: int) -> str:
    """Return the reason why one of two different numbers is larger."""
    sign = ">" if a > b else "<"
    x, y = str(a), str(b)
    if len(x) != len(y):
        return f"{a} has {len(x)} digit{'s' * (len(x) > 1)}, {b} has {len(y)}, so {a}{sign}{b}"
    place = next(i for i in range(len(x)) if x[i] != y[i])
    equal = "".join(f"{d}={d}, " for d in x[:place])
    return f"digit by digit: {equal}{x[place]}{sign}{y[place]}, so {a}{sign}{b}"


def compare(rng: random.Random) -> Problem:
    """The larger or the smaller of two numbers, often close to each other."""
    digits = rng.choice((1, 2, 3, 3, 4, 5))
    a, b = number(rng, digits), number(rng, digits if rng.random() < 0.7 else max(1, digits - 1))
    if rng.random() < 0.35 and a > 9:
        b = a // 10 * 10 + rng.randrange(10)
    if a == b:
        b = a + 1
    largest = rng.random() < 0.5
    adjective = rng.choice(("larger", "bigger", "greater") if largest else ("smaller", "lower", "less"))
    result = max(a, b) if largest else min(a, b)
    pattern = "Which [number |]is {w}[,|:] {a} or {b}?|Is {a} or {b} {w}?|{w}: {a} or {b}?|Which of {a} and {b} is {w}?"
    asked = question(rng, pattern + "|[Tell me|Say] which is {w}, {a} or {b}[.|]", a=a, b=b, w=adjective)
    answer = phrase(rng, "[{g}|{g} is {w}.|It is {g}.|The {w} number is {g}.]", g=result, w=adjective)
    steps = f"{_compare_steps(a, b)}\n{adjective}: {result}"
    key = f"compare {min(a, b)},{max(a, b)},{largest}"
    return Problem("compare", key, asked, steps, answer, answer, str(result), result)


def _selection(left: list[str], order: list[str], word: str) -> str:
    """Return selection sort in words: what is taken each time, and what is left."""
    left, lines = list(left), []
    for item in order[:-1]:
        left.remove(item)
        lines.append(f"{word} {item}, left {', '.join(left)}")
    return "\n".join(lines)


def sort_numbers(rng: random.Random) -> Problem:
    """Three to six different numbers in ascending or descending order."""
    numbers = rng.sample(range(1, rng.choice((20, 100, 100, 1000))), rng.randint(3, 6))
    up = rng.random() < 0.65
    way = phrase(
        rng,
        "from smallest to largest|in ascending order|in increasing order|from low to high"
        if up
        else "from largest to smallest|in descending order|in decreasing order|from high to low",
    )
    order = [str(n) for n in sorted(numbers, reverse=not up)]
    shown = [str(n) for n in numbers]
    pattern = "Sort [these numbers |]{w}: {l}[.|]|[Put|Arrange|Order] {l} {w}[.|]|[Can you|Please] sort {l} {w}[?|.]"
    asked = question(rng, pattern, w=way, l=", ".join(shown))
    gold = ", ".join(order)
    answer = phrase(rng, "[{g}|Sorted: {g}|Here they are {w}: {g}|{g}]", g=gold, w=way)
    steps = _selection(shown, order, "smallest" if up else "largest")
    return Problem("sort", f"sort {sorted(numbers)} {up}", asked, steps, answer, answer, gold)


def alphabetical(rng: random.Random) -> Problem:
    """Two to five words in alphabetical order."""
    words = rng.sample(EVERYDAY, rng.randint(2, 5))
    order = sorted(words)
    pattern = (
        "[Sort|Put|Arrange|Order] [these words |the words |][alphabetically|in alphabetical order]: {l}[.|]"
    )
    asked = question(rng, pattern, l=", ".join(words))
    gold = ", ".join(order)
    answer = phrase(rng, "[{g}|In alphabetical order: {g}]", g=gold)
    steps = _selection(words, order, "first")
    return Problem("alphabetical", f"alphabetical {order}", asked, steps, answer, answer, gold)


def parity(rng: random.Random) -> Problem:
    """Whether a number is even or odd."""
    n, about_odd = number(rng, rng.randint(1, 5)), rng.random() < 0.5
    kind = "even" if n % 2 == 0 else "odd"
    gold = "Yes" if (kind == "odd") == about_odd else "No"
    asked = question(rng, "Is {n} [an |]{p}[ number|]?", n=n, p="odd" if about_odd else "even")
    answer = phrase(rng, "[{g}.|{g}, {n} is {p}.]", g=gold, n=n, p=kind)
    return Problem(
        "parity", f"parity {n} {about_odd}", asked, f"last digit {n % 10}: {kind}", answer, answer, gold
    )
