"""Questions that only make sense after an earlier exchange."""

from __future__ import annotations

import random
from collections.abc import Sequence

from demo.capitals import CAPITALS
from demo.phrasing import phrase, question
from demo.problem import Problem, sum_key
from demo.problems.knowledge import capital_of
from demo.problems.letters import reverse_answer, spell_answer
from demo.traces import add_steps, multiply_line, multiply_steps, subtract_steps
from demo.words import ANIMALS, CITIES, COLORS, NAMES, word

MAX_VALUE = 100_000
_RESULT = "{x}|That gives {x}.|It is {x}.|The result is {x}."


def _numeric(
    rng: random.Random, key: str, asked: str, before: int, working: tuple[str, str], value: int
) -> Problem:
    """Return a follow-up whose result is a number; `working` is given in lines and as one line."""
    steps, line = working
    answer = phrase(rng, _RESULT, x=value)
    lead = f"The last result was {before}\n{steps}"
    return Problem("follow-up", key, asked, lead, answer, f"{line}. {answer}", str(value), value)


def _double(rng: random.Random, v: int) -> Problem:
    asked = question(
        rng, "[Now double it|Double that|And twice that|Times two][.|?|]|What is the double[ of that|]?"
    )
    return _numeric(rng, f"double {v}", asked, v, (add_steps(v, v), f"{v}+{v}={2 * v}"), 2 * v)


def _plus(rng: random.Random, v: int) -> Problem:
    k = rng.randint(2, 60)
    asked = question(rng, "[Now |Then |]add {k}[ to it| to that|][.|]|Plus {k}[?|]|And {k} more[?|]", k=k)
    return _numeric(rng, sum_key(v, "+", k), asked, v, (add_steps(v, k), f"{v}+{k}={v + k}"), v + k)


def _minus(rng: random.Random, v: int) -> Problem:
    k = rng.randint(2, 60)
    asked = question(
        rng, "[Now |Then |][subtract|take away] {k}[ from it| from that|][.|]|Minus {k}[?|]", k=k
    )
    return _numeric(rng, sum_key(v, "-", k), asked, v, (subtract_steps(v, k), f"{v}-{k}={v - k}"), v - k)


def _times(rng: random.Random, v: int) -> Problem:
    k = rng.randint(2, 9)
    asked = question(rng, "[Now |Then |]multiply [it|that] by {k}[.|]|Times {k}[?|]", k=k)
    line = multiply_line(v, k) or f"{v}*{k}={v * k}"
    return _numeric(rng, f"times {v} {k}", asked, v, (multiply_steps(v, k), line), v * k)


def _is_even(rng: random.Random, v: int) -> Problem:
    kind = "even" if v % 2 == 0 else "odd"
    gold = "Yes" if kind == "even" else "No"
    asked = question(rng, "Is [it|that|that number] even?")
    steps = f"The last result was {v}\nlast digit {v % 10}: {kind}"
    answer = phrase(rng, "{g}.|{g}, {v} is {p}.", g=gold, v=v, p=kind)
    return Problem("follow-up", f"even {v}", asked, steps, answer, answer, gold)


def numeric_follow_up(rng: random.Random, value: int) -> Problem:
    """Return a question about the last result, such as "now add 7"."""
    makers = [_double, _plus, _plus, _minus, _minus, _is_even] + [_times] * (value < 1000)
    return rng.choice(makers)(rng, value)


def same_again(rng: random.Random, last: Problem) -> Problem | None:
    """Return a question that leaves out what the last one said, such as "and of Spain?"; None if none fits."""
    if last.task in ("capital", "capital again"):
        country = rng.choice(list(CAPITALS))
        asked = question(rng, "And [of|for|] {c}?|What about {c}?|And the capital of {c}?", c=country)
        return capital_of(rng, country, asked, "capital again") if last.gold in CAPITALS.values() else None
    if last.task in ("reverse", "reverse again"):
        text = word(rng)
        return reverse_answer(
            rng, text, "reverse again", question(rng, "And {w}?|Now {w}[.|]|The same with {w}[.|]", w=text)
        )
    if last.task in ("spell", "spell again"):
        text = word(rng)
        return spell_answer(
            rng, text, "spell again", question(rng, "And {w}?|Now {w}[.|]|The same with {w}[.|]", w=text)
        )
    return None


def about_last(rng: random.Random, last: Problem) -> Problem | None:
    """Return a request to repeat, to confirm or to explain the last answer; None if it has no lasting answer."""
    if last.task in ("talk", "unknown", "too hard", "fact", "about last") or len(last.worked) > 200:
        return None
    kind = rng.choice(("repeat", "confirm"))
    if kind == "repeat":
        asked = question(
            rng, "[Say that again|Repeat that|Once more|What did you say][.|?|]|Can you repeat that?"
        )
        answer, steps = last.gold, f"My last answer was {last.gold}"
    else:
        asked = question(rng, "Are you sure?|Is that [right|correct|true]?|Really?")
        answer, steps = f"Yes, the answer is {last.gold}.", f"My last answer was {last.gold}"
    return Problem("about last", f"{kind} {last.key}", asked, steps, answer, answer, last.gold)


_FACTS = {
    "name": (NAMES, "My name is {x}[.|]|I am [called |]{x}[.|]|Call me {x}[.|]", "Nice to meet you, {x}!|Hello {x}!",
             "What is my name?|Do you [know|remember] my name?|Who am I?", "Your name is {x}.|You are {x}."),
    "city": (CITIES, "I live in {x}[.|]|I am from {x}[.|]|My home is {x}[.|]", "{x} must be a nice place.|Greetings to {x}!",
             "Where do I live?|Which city do I live in?|Where am I from?", "You live in {x}."),
    "color": (COLORS, "My favorite color is {x}[.|]|I like the color {x}[.|]", "{x} is a good choice.|I will remember: {x}.",
              "What is my favorite color?|Which color do I like?", "Your favorite color is {x}."),
    "pet": (ANIMALS, "My favorite animal is the {x}[.|]|I love every {x}[.|]", "Who would not like a {x}?|A {x}, how nice!",
            "What is my favorite animal?|Which animal do I like?", "Your favorite animal is the {x}."),
}  # fmt: skip


def tell_fact(rng: random.Random, known: dict[str, str]) -> Problem:
    """Return a remark of the user about themselves, and remember it in `known`."""
    kind = rng.choice(list(_FACTS))
    values, said, reply, _, _ = _FACTS[kind]
    known[kind] = value = rng.choice(values)
    answer = phrase(rng, reply, x=value)
    answer = answer[0].upper() + answer[1:]
    steps = f"The user tells me their {kind}: {value}"
    return Problem("fact", f"fact {rng.random()}", phrase(rng, said, x=value), steps, answer, answer, value)


def recall_fact(rng: random.Random, known: dict[str, str]) -> Problem:
    """Return a question about something the user said before, or never said."""
    told = bool(known) and rng.random() < 0.85
    kind = rng.choice(list(known)) if told else rng.choice([k for k in _FACTS if k not in known] or ["name"])
    _, _, _, asked, reply = _FACTS[kind]
    if kind in known:
        answer, steps, gold = (
            phrase(rng, reply, x=known[kind]),
            f"The user's {kind} is {known[kind]}",
            known[kind],
        )
    else:
        answer, steps, gold = "You have not told me.", f"The user did not tell me their {kind}", "not told me"
    return Problem("recall", f"recall {rng.random()}", question(rng, asked), steps, answer, answer, gold)


def follow_up(rng: random.Random, history: Sequence[Problem], known: dict[str, str]) -> Problem | None:
    """Return a question that leans on the conversation so far, or None if none fits."""
    last = history[-1]
    choice = rng.random()
    if choice < 0.12 and known:
        return recall_fact(rng, known)
    if choice < 0.22:
        return about_last(rng, last)
    if last.value is not None and 0 <= last.value < MAX_VALUE:
        return numeric_follow_up(rng, last.value)
    return same_again(rng, last)
