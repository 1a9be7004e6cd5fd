"""The families of tools that appear in the chats."""

from __future__ import annotations

import random
from collections.abc import Callable

from demo.problem import Split, is_held_out
from demo.tools.action import appointment, dice, lights, message, music, timer, to_do
from demo.tools.case import ToolCase
from demo.tools.lookup import (
    calculator,
    define,
    distance,
    exchange,
    local_time,
    read_file,
    stock,
    translate,
    weather,
    web_search,
)  # fmt: skip

Family = Callable[[random.Random], ToolCase]

FAMILIES: tuple[Family, ...] = (
    weather, calculator, local_time, exchange, stock, translate, read_file, web_search, define, distance,
    timer, message, dice, appointment, to_do, lights, music,
)  # fmt: skip

HELD_OUT_FAMILIES = tuple(family for family in FAMILIES if family not in (stock, read_file, lights))
"""Families with held-out uses; the others have so few different arguments that the split takes none of them."""


def draw_tool(rng: random.Random, split: Split, family: Family) -> ToolCase:
    """Return a use of a tool whose arguments belong to the split; for "test", of one of the held-out families."""
    if split == "test" and family not in HELD_OUT_FAMILIES:
        raise ValueError(f"{family.__name__} has no held-out uses")
    while True:
        case = family(rng)
        if is_held_out(f"{family.__name__} {sorted(map(str, case.arguments.values()))}") == (split == "test"):
            return case


def same_tool(rng: random.Random, family: Family, case: ToolCase) -> ToolCase:
    """Return another training use of the very tool of `case`: its family, name and parameters."""
    while True:
        other = draw_tool(rng, "train", family)
        if (other.name, list(other.parameters)) == (case.name, list(case.parameters)):
            return other
