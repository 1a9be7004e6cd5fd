"""One exchange between a user and the assistant, and the split that keeps some problems unseen."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "test"]

HELD_OUT_ONE_IN = 16
_SUM = re.compile(r"(?<![\d.:])(\d{2,}) ?([-+*]) ?(\d{2,})(?![\d.:])")


@dataclass(frozen=True)
class Problem:
    """A question with its solution.

    `steps` is the reasoning of a thinking model and `answer` what it says afterwards; `worked` is the answer
    without thinking, which shows its working where the result cannot be seen at once. `gold` is what a correct
    answer contains. `value` is the numeric result, for follow-up questions.
    """

    task: str
    key: str
    question: str
    steps: str
    answer: str
    worked: str
    gold: str
    value: int | None = None


def sum_key(left: int, operator: str, right: int) -> str:
    """Return the identity of a sum; `a+b` and `b+a` (and `a*b`, `b*a`) are the same sum."""
    if operator != "-" and left > right:
        left, right = right, left
    return f"{left}{operator}{right}"


def sums_in(text: str) -> Iterator[str]:
    """Yield the keys of the sums written out in `text` whose two operands have two digits or more."""
    for left, operator, right in _SUM.findall(text):
        yield sum_key(int(left), operator, int(right))


def is_held_out(key: str) -> bool:
    """Tell whether a key belongs to the sixteenth of all problems that training never sees."""
    return zlib.crc32(key.encode()) % HELD_OUT_ONE_IN == 0


def belongs_to(problem: Problem, split: Split) -> bool:
    """Tell whether a problem may be used in a split.

    A test problem's own key is held out. A training problem's is not, and neither is any sum of larger numbers
    that appears in its question, its steps or its worked answer.
    """
    if split == "test":
        return is_held_out(problem.key)
    if is_held_out(problem.key):
        return False
    text = f"{problem.question}\n{problem.steps}\n{problem.worked}"
    return not any(map(is_held_out, sums_in(text)))
