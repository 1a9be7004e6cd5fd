"""Weekdays, months and leap years."""

from __future__ import annotations

import random

from demo.phrasing import phrase, question
from demo.problem import Problem
from demo.words import MONTH_DAYS, MONTHS, WEEKDAYS


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural unless the count is one."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def weekday(rng: random.Random) -> Problem:
    """The day of the week some days before or after another."""
    start, later = rng.randrange(7), rng.random() < 0.6
    days = rng.choice((rng.randint(1, 7), rng.randint(1, 30), rng.randint(7, 99)))
    step = 1 if later else -1
    count = plural(days, "day")
    after = "[If today is {d}|Today is {d}][,|.] [what|which] day [will it be|is it] in {n}?|What day is {n} after {d}?"
    before = (
        "[If today is {d}|Today is {d}][,|.] [what|which] day was [it |]{n} ago?|What day is {n} before {d}?"
    )
    asked = question(rng, after if later else before, d=WEEKDAYS[start], n=count)
    rest = days % 7
    path = ", ".join(WEEKDAYS[(start + step * i) % 7] for i in range(rest + 1))
    weeks = f"{days}=7*{days // 7}+{rest}, " if days > 6 else ""
    walk = f"{plural(rest, 'day')} {'after' if later else 'before'} {WEEKDAYS[start]}: {path}"
    gold = WEEKDAYS[(start + step * days) % 7]
    answer = phrase(rng, "[{g}|It {w} {g}.|{g}.|That is {g}.]", g=gold, w="will be" if later else "was")
    steps = weeks.replace(", ", "\n") + walk
    key = f"weekday {start} {days} {later}"
    return Problem("weekday", key, asked, steps, answer, f"{weeks}{walk}. {answer}", gold)


def month(rng: random.Random) -> Problem:
    """The month some months before or after another."""
    start, count, later = rng.randrange(12), rng.randint(1, 11), rng.random() < 0.6
    step, side = (1, "after") if later else (-1, "before")
    pattern = "[Which|What] month [is|comes] {n} {s} {m}?|What is the month {n} {s} {m}?"
    asked = question(rng, pattern, n=plural(count, "month"), s=side, m=MONTHS[start])
    path = ", ".join(MONTHS[(start + step * i) % 12] for i in range(count + 1))
    gold = MONTHS[(start + step * count) % 12]
    answer = phrase(rng, "[{g}|It is {g}.|{g}.]", g=gold)
    return Problem("month", f"month {start} {count} {later}", asked, path, answer, f"{path}. {answer}", gold)


def is_leap(year: int) -> bool:
    """Tell whether February has 29 days in a year of the Gregorian calendar."""
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _leap_steps(year: int) -> str:
    text = f"{year % 100}/4 has rest {year % 4}"
    if year % 100 == 0:
        text = f"{year} is a full century, {year // 100}/4 has rest {year // 100 % 4}"
    return f"{text}, so {year} is {'' if is_leap(year) else 'not '}a leap year"


def leap_year(rng: random.Random) -> Problem:
    """Whether a year is a leap year."""
    year = rng.randint(1900, 2100) if rng.random() < 0.9 else 100 * rng.randint(16, 24)
    gold = "Yes" if is_leap(year) else "No"
    asked = question(rng, "Is {y} a leap year?|Was {y} a leap year?|{y}: leap year or not?", y=year)
    steps = _leap_steps(year)
    answer = phrase(
        rng, "[{g}.|{g}, {y} is {n}a leap year.]", g=gold, y=year, n="" if is_leap(year) else "not "
    )
    return Problem("leap year", f"leap {year}", asked, steps, answer, f"{steps}. {answer}", gold)


def month_length(rng: random.Random) -> Problem:
    """How many days a month has; February depends on the year."""
    index, year = rng.randrange(12), rng.randint(1900, 2100)
    february = index == 1
    name = f"{MONTHS[index]} {year}" if february else MONTHS[index]
    days = MONTH_DAYS[index] + (february and is_leap(year))
    asked = question(rng, "How many days [does {m} have|are in {m}|are there in {m}]?", m=name)
    steps = f"{_leap_steps(year)}: {days} days" if february else f"{name} has {days} days"
    answer = phrase(rng, "[{d}|{d} days.|It has {d} days.]", d=days)
    worked = f"{steps}." if february else answer
    key = f"length {name}" if february else f"length {asked}"
    return Problem("month length", key, asked, steps, answer, worked, str(days), days)
