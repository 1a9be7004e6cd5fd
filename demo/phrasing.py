"""A small language for varied wording.

`[a|b|c]` stands for one of its alternatives, alternatives nest, and the whole pattern may itself be a list of
alternatives. `{name}` is filled in afterwards.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Choice:
    """A place in a pattern where one of several sequences of parts is spoken."""

    options: tuple[tuple[str | Choice, ...], ...]


def _read_choice(tokens: Iterator[str]) -> Choice:
    """Consume tokens up to the closing bracket (or the end) and return what they describe."""
    options: list[list[str | Choice]] = [[]]
    for token in tokens:
        if token == "[":
            options[-1].append(_read_choice(tokens))
        elif token == "|":
            options.append([])
        elif token == "]":
            break
        elif token:
            options[-1].append(token)
    return Choice(tuple(tuple(option) for option in options))


@cache
def parse(pattern: str) -> Choice:
    """Return the tree of alternatives that `pattern` describes."""
    return _read_choice(iter(re.split(r"([\[\]|])", pattern)))


def _speak(rng: random.Random, choice: Choice) -> str:
    option = choice.options[int(rng.random() * len(choice.options))]
    return "".join(part if isinstance(part, str) else _speak(rng, part) for part in option)


def phrase(rng: random.Random, pattern: str, /, **fields: object) -> str:
    """Return one wording of `pattern` with its fields filled in and its spaces tidied."""
    return re.sub(" +", " ", _speak(rng, parse(pattern))).strip().format(**fields)


def question(rng: random.Random, pattern: str, /, **fields: object) -> str:
    """Return a wording as people type it: now and then without a capital letter or the final mark."""
    text = phrase(rng, pattern, **fields)
    habit = rng.random()
    if habit < 0.06 and not re.search(r"[A-Z]", text[1:]):
        return text.lower()
    if habit < 0.12 and text[-1] in "?.!":
        return text[:-1]
    return text
