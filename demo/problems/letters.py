"""Words taken apart: spelling, reversing, counting, capitals, copying.

A reversed word is answered letter by letter: its letters are single tokens, while the joined word would have to be
cut into tokens the model has never seen together.
"""

from __future__ import annotations

import random

from demo.phrasing import phrase, question
from demo.problem import Problem
from demo.words import NAMES, number, quoted, word


def reverse_answer(rng: random.Random, text: str, task: str = "reverse", asked: str = "") -> Problem:
    """Return the problem of writing `text` backwards, asked as `asked`."""
    letters, gold = "-".join(text), "-".join(reversed(text))
    steps = f"{text}: {' '.join(text)}\nbackwards: {' '.join(reversed(text))}"
    answer = phrase(rng, "[{g}|Backwards it is {g}.|It is {g}.|{g}]", g=gold)
    worked = phrase(rng, "[{l} backwards is {g}.|{l}, backwards: {g}]", l=letters, g=gold)
    return Problem(task, f"reverse {text}", asked, steps, answer, worked, gold)


def reverse(rng: random.Random) -> Problem:
    """A word backwards, letter by letter."""
    text = word(rng)
    pattern = "Reverse [the word |the letters of |]{q}[.|]|[Write|Spell|Say] {q} backwards[.|]"
    pattern += "|What is {q} [backwards|reversed|spelled backwards]?|[Can you|Please] reverse {q}[?|.]|{q} backwards[?|]"
    return reverse_answer(rng, text, asked=question(rng, pattern, q=quoted(rng, text)))


def spell_answer(rng: random.Random, text: str, task: str = "spell", asked: str = "") -> Problem:
    """Return the problem of spelling `text`, asked as `asked`."""
    gold = "-".join(text)
    answer = phrase(rng, "[{g}|It is spelled {g}.|{w} is spelled {g}.|{g}]", g=gold, w=text)
    return Problem(task, f"spell {text}", asked, f"{text}: {' '.join(text)}", answer, answer, gold)


def spell(rng: random.Random) -> Problem:
    """The letters of a word in their order."""
    text = word(rng)
    pattern = "Spell [the word |out |]{q}[.|]|How [do you spell|is] {q}[ spelled|]?|Which letters are in {q}?"
    pattern = pattern.replace(
        "How [do you spell|is] {q}[ spelled|]?", "How do you spell {q}?|How is {q} spelled?"
    )
    pattern += "|[List|Give me] the letters of {q}[.|]|[Can you|Please] spell {q}[?|.]"
    return spell_answer(rng, text, asked=question(rng, pattern, q=quoted(rng, text)))


def count_letter(rng: random.Random) -> Problem:
    """How often a letter occurs in a word."""
    text = word(rng)
    letter = rng.choice(text) if rng.random() < 0.85 else rng.choice("abcdefghijklmnopqrstuvwxyz")
    seen, marked = 0, []
    for x in text:
        seen += x == letter
        marked.append(f"{x}{seen}")
    pattern = "How many [times does the letter {c} appear|letters {c} are|{c}s are|{c}'s are there|times does {c} occur]"
    pattern += " in [the word |]{q}?|Count the [letter {c}|{c}'s] in {q}[.|]|How often does {c} occur in {q}?"
    asked = question(rng, pattern, c=letter, q=quoted(rng, text))
    is_or_are = "is" if seen == 1 else "are"
    answer = phrase(rng, "[{g}|There {v} {g}.|The [answer|count] is {g}.|It is {g}.]", g=seen, v=is_or_are)
    working = " ".join(marked)
    return Problem(
        "count", f"count {text} {letter}", asked, f"count {letter}: {working}", answer,
        f"Counting {letter}: {working}. {answer}", str(seen), seen,
    )  # fmt: skip


def length(rng: random.Random) -> Problem:
    """How many letters a word has."""
    text = word(rng)
    pattern = "How many letters [are in {q}|does {q} have]?|Count the letters in {q}[.|]|How long is [the word |]{q}?"
    asked = question(rng, pattern + "|What is the length of {q}?", q=quoted(rng, text))
    working = " ".join(f"{x}{i}" for i, x in enumerate(text, 1))
    answer = phrase(rng, "[{g}|There are {g}.|It has {g} letters.|It is {g}.]", g=len(text))
    worked = f"Counting: {working}. {answer}"
    return Problem("length", f"length {text}", asked, working, answer, worked, str(len(text)), len(text))


def letter_case(rng: random.Random) -> Problem:
    """A few words in upper case, lower case or with capital first letters."""
    words = [word(rng) for _ in range(rng.randint(1, 4))]
    form = rng.randrange(3)
    way = phrase(
        rng,
        (
            "in upper case|in capital letters|in capitals|in uppercase",
            "with capital first letters|in title case",
            "in lower case|in small letters|in lowercase",
        )[form],
    )
    if form == 2:
        words = [w.upper() if rng.random() < 0.5 else w.capitalize() for w in words]
    changed = [(str.upper, str.capitalize, str.lower)[form](w) for w in words]
    text = " ".join(words)
    asked = phrase(rng, '[Write|Put|Give me|Please write] [{s} {v}|"{s}" {v}|{v}: {s}]', s=text, v=way)
    steps = "\n".join(f"{a}: {b}" for a, b in zip(words, changed, strict=True))
    gold = " ".join(changed)
    return Problem("case", f"case {text} {form}", asked, steps, gold, gold, gold)


def repeat(rng: random.Random) -> Problem:
    """A line to be copied exactly."""
    makers = (word, word, lambda r: str(number(r, r.randint(1, 3))), lambda r: r.choice(NAMES))
    text = " ".join(rng.choice(makers)(rng) for _ in range(rng.randint(2, 8)))
    pattern = 'Repeat [after me|this|exactly]: {s}|Say [this|exactly]: {s}|[Please repeat|Repeat] "{s}"|Copy this: {s}'
    asked = phrase(rng, pattern + "|Echo: {s}", s=text)
    return Problem("repeat", f"repeat {text}", asked, f"I only have to copy: {text}", text, text, text)
