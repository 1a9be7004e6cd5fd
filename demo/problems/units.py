"""Conversions between units."""

from __future__ import annotations

import random

from demo.phrasing import phrase, question
from demo.problem import Problem
from demo.traces import divide_steps, multiply_line, multiply_steps
from demo.words import number

# (larger unit, one of it, smaller unit, how many smaller ones it holds)
UNITS = (
    ("kilometers", "kilometer", "meters", 1000),
    ("meters", "meter", "centimeters", 100),
    ("centimeters", "centimeter", "millimeters", 10),
    ("meters", "meter", "millimeters", 1000),
    ("kilograms", "kilogram", "grams", 1000),
    ("tons", "ton", "kilograms", 1000),
    ("liters", "liter", "milliliters", 1000),
    ("gigabytes", "gigabyte", "megabytes", 1000),
    ("dollars", "dollar", "cents", 100),
    ("euros", "euro", "cents", 100),
    ("hours", "hour", "minutes", 60),
    ("minutes", "minute", "seconds", 60),
    ("days", "day", "hours", 24),
    ("weeks", "week", "days", 7),
    ("years", "year", "months", 12),
    ("feet", "foot", "inches", 12),
    ("yards", "yard", "feet", 3),
    ("dozens", "dozen", "eggs", 12),
)


def _celsius(rng: random.Random) -> Problem:
    celsius = 5 * rng.randint(-4, 30)
    fahrenheit = celsius * 9 // 5 + 32
    pattern = "[Convert|Change] {c} [degrees Celsius|°C] [to|into] [Fahrenheit|°F][.|]|What is {c} °C in [Fahrenheit|°F]?"
    asked = question(rng, pattern, c=celsius)
    steps = (
        f"{celsius}/5={celsius // 5}, {celsius // 5}*9={celsius // 5 * 9}, {celsius // 5 * 9}+32={fahrenheit}"
    )
    answer = phrase(rng, "[{f}|It is {f} °F.|That is {f} °F.]", f=fahrenheit)
    return Problem(
        "units", f"celsius {celsius}", asked, steps, answer, f"{steps}. {answer}", str(fahrenheit), fahrenheit
    )


def _shift(amount: int, factor: int, smaller: bool) -> str:
    """Return the conversion by a power of ten as zeros added or removed."""
    zeros = len(str(factor)) - 1
    noun = "zero" if zeros == 1 else "zeros"
    if smaller:
        return f"{amount} with {zeros} {noun} more: {amount * factor}"
    return f"{amount} with {zeros} {noun} less: {amount // factor}"


def units(rng: random.Random) -> Problem:
    """A whole amount in a smaller or a larger unit."""
    if rng.random() < 0.12:
        return _celsius(rng)
    large, one, small, factor = rng.choice(UNITS)
    decimal = factor in (10, 100, 1000)
    count = number(rng, rng.randint(1, 3 if decimal else 2)) + 1
    smaller = rng.random() < 0.65
    amount, result = (count, count * factor) if smaller else (count * factor, count)
    source, target = (large, small) if smaller else (small, large)
    pattern = "How many {b} [are in|are|make] {x} {a}?|Convert {x} {a} [to|into] {b}[.|]|{x} {a} in {b}[?|]"
    pattern += "|What is {x} {a} in {b}?|[Change|Express] {x} {a} [into|in] {b}[.|]"
    asked = question(rng, pattern, a=source, b=target, x=amount)
    if decimal:
        working = line = _shift(amount, factor, smaller)
    elif smaller:
        working = multiply_steps(amount, factor)
        line = multiply_line(amount, factor) or working
    else:
        working = line = divide_steps(amount, factor)
    fact = f"1 {one} = {factor} {small}"
    answer = phrase(
        rng, "[{y}|{x} {a} is {y} {b}.|It is {y} {b}.|{y} {b}]", x=amount, a=source, b=target, y=result
    )
    key = f"units {amount} {source} {target}"
    return Problem(
        "units", key, asked, f"{fact}\n{working}", answer, f"{fact}; {line}. {answer}", str(result), result
    )
