"""The few facts the model knows: capitals and opposites."""

from __future__ import annotations

import random

from demo.capitals import CAPITALS
from demo.phrasing import phrase, question
from demo.problem import Problem
from demo.words import OPPOSITES, quoted

_BOTH_WAYS = OPPOSITES | {b: a for a, b in OPPOSITES.items()}


def capital_of(rng: random.Random, country: str, asked: str, task: str = "capital") -> Problem:
    """Return the problem of naming the capital of `country`, asked as `asked`."""
    city = CAPITALS[country]
    pattern = "[{k}|The capital of {c} is {k}.|It is {k}.|{k}.|{k} is the capital of {c}.]"
    answer = phrase(rng, pattern, c=country, k=city)
    steps = f"The capital of {country} is {city}"
    return Problem(task, f"{task} {asked}", asked, steps, answer, answer, city)


def capital(rng: random.Random) -> Problem:
    """The capital of a country, or the country of a capital."""
    country = rng.choice(list(CAPITALS))
    city = CAPITALS[country]
    if rng.random() < 0.7:
        pattern = (
            "What is the capital [city |]of {c}?|[What's|Tell me|Name|Do you know] the capital of {c}[?|.]"
        )
        pattern += "|Capital of {c}[?|]|Which city is the capital of {c}?|[What is |]{c}'s capital[ city|]?"
        return capital_of(rng, country, question(rng, pattern, c=country))
    pattern = "{k} is the capital of which country?|Which country has the capital {k}?|Of which country is {k} the capital?"
    asked = question(rng, pattern + "|What country is {k} the capital of?", k=city)
    answer = phrase(rng, "[{c}|{k} is the capital of {c}.|It is {c}.|{c}.]", c=country, k=city)
    steps = f"The capital of {country} is {city}"
    return Problem("capital", f"capital {asked}", asked, steps, answer, answer, country)


def opposite(rng: random.Random) -> Problem:
    """The opposite of a common word."""
    text = rng.choice(list(_BOTH_WAYS))
    gold = _BOTH_WAYS[text]
    pattern = (
        "What is the opposite of {q}?|[Name|Give me|Tell me] the opposite of {q}[.|]|Opposite of {q}[?|]"
    )
    asked = question(rng, pattern + "|What is the antonym of {q}?", q=quoted(rng, text))
    answer = phrase(rng, "[{g}|The opposite of {w} is {g}.|It is {g}.]", g=gold, w=text)
    return Problem(
        "opposite", f"opposite {asked}", asked, f"{text} and {gold} are opposites", answer, answer, gold
    )
