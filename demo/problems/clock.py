"""Times of day, some hours and minutes earlier or later."""

from __future__ import annotations

import random

from demo.phrasing import phrase, question
from demo.problem import Problem
from demo.problems.calendar import plural

DAY_MINUTES = 24 * 60


def clock_time(minutes: int) -> str:
    """Return minutes since midnight as hours and minutes."""
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _later_steps(hour: int, minute: int, hours: int, minutes: int) -> list[str]:
    total = minute + minutes
    carry = total > 59
    lines = [f"minutes {minute}+{minutes}={total}" + (f", 1 hour and {total - 60}" if carry else "")]
    lines.append(f"hours {hour}+{hours}{'+1' if carry else ''}={hour + hours + carry}")
    return lines


def _earlier_steps(hour: int, minute: int, hours: int, minutes: int) -> list[str]:
    borrow = minute < minutes
    minuend = minute + 60 if borrow else minute
    lines = [f"minutes {minuend}-{minutes}={minuend - minutes}" + (", 1 hour less" if borrow else "")]
    lines.append(f"hours {hour}-{hours}{'-1' if borrow else ''}={hour - hours - borrow}")
    return lines


def clock(rng: random.Random) -> Problem:
    """The time some hours and minutes before or after another, across midnight if need be."""
    start, later = 5 * rng.randrange(288), rng.random() < 0.6
    hours, minutes = rng.randrange(6), 5 * rng.randrange(12)
    hours = max(hours, 1) if not minutes else hours
    hour, minute = divmod(start, 60)
    span = " and ".join([plural(hours, "hour")] * (hours > 0) + [f"{minutes} minutes"] * (minutes > 0))
    pattern = "[What time is it|What is the time|What time is] {w} {k} {t}?|If it is {t}, what time [is|was] it {w} {l}?"
    side, shift = ("after", "later") if later else ("before", "earlier")
    asked = question(rng, pattern, w=span, k=side, l=shift, t=clock_time(start))
    lines = (_later_steps if later else _earlier_steps)(hour, minute, hours, minutes)
    raw = int(lines[1].rpartition("=")[2])
    if raw > 23:
        lines.append(f"{raw}-24={raw - 24}")
    elif raw < 0:
        lines.append(f"24{raw}={24 + raw}")
    change = hours * 60 + minutes
    gold = clock_time((start + change if later else start - change) % DAY_MINUTES)
    answer = phrase(rng, "[{g}|It is {g}.|{g}.]", g=gold)
    key = f"clock {start} {change} {later}"
    worked = f"{', '.join(lines)}. {answer}"
    return Problem("clock", key, asked, "\n".join([*lines, gold]), answer, worked, gold)
