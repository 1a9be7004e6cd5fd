"""Number sequences to continue, and lists to write out."""

from __future__ import annotations

import random
from itertools import pairwise

from demo.phrasing import phrase, question
from demo.problem import Problem
from demo.traces import multiply_line, multiply_steps
from demo.words import MONTHS, WEEKDAYS

_STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 20, 25)


def _arithmetic(rng: random.Random, length: int) -> tuple[list[int], str, str]:
    step = rng.choice(_STEPS) * rng.choice((1, 1, -1))
    start = rng.randint(0, 200) + (-step * length if step < 0 else 0)
    terms = [start + i * step for i in range(length + 1)]
    differences = ", ".join(f"{b}-{a}={b - a}" for a, b in pairwise(terms[:-1]))
    last = f"{terms[-2]}{'+' if step > 0 else '-'}{abs(step)}={terms[-1]}"
    return terms, f"differences: {differences}\nnext: {last}", last


def _geometric(rng: random.Random, length: int) -> tuple[list[int], str, str]:
    start, ratio = rng.randint(1, 9), rng.choice((2, 2, 3, 4, 5, 10))
    terms = [start * ratio**i for i in range(min(length, 4) + 1)]
    ratios = ", ".join(f"{b}/{a}={ratio}" for a, b in pairwise(terms[:-1]))
    working = f"{multiply_line(terms[-2], ratio) or f'{terms[-2]}*{ratio}={terms[-1]}'}"
    if ratio == 10:
        working = f"{terms[-2]}*10={terms[-1]}"
    return terms, f"ratios: {ratios}\nnext: {working}", working


def _fibonacci(rng: random.Random, length: int) -> tuple[list[int], str, str]:
    terms = [rng.randint(1, 12), rng.randint(1, 12)]
    while len(terms) < length + 2:
        terms.append(terms[-1] + terms[-2])
    sums = [f"{a}+{b}={c}" for a, b, c in zip(terms, terms[1:], terms[2:])]
    return terms, f"each is the sum of the two before it: {', '.join(sums)}", sums[-1]


def _squares(rng: random.Random, length: int) -> tuple[list[int], str, str]:
    start = rng.randint(1, 20)
    terms = [(start + i) ** 2 for i in range(length + 1)]
    root = start + length
    roots = ", ".join(str(start + i) for i in range(length))
    working = multiply_line(root, root) or f"{root}*{root}={terms[-1]}"
    return (
        terms,
        f"squares of {roots}\nnext: {multiply_steps(root, root)}",
        f"the square of {root}: {working}",
    )


def sequence(rng: random.Random) -> Problem:
    """The next number of an arithmetic, geometric, Fibonacci-like or square sequence."""
    maker = rng.choice((_arithmetic, _arithmetic, _arithmetic, _geometric, _fibonacci, _squares))
    terms, steps, working = maker(rng, rng.randint(3, 5))
    shown, result = ", ".join(map(str, terms[:-1])), terms[-1]
    pattern = (
        "What [comes next|is next|is the next number][ in the sequence|]: {l}[, ...|?|]|{l}, what comes next?"
    )
    pattern += "|[Continue|Complete|Extend] the sequence {l}[.|, ...]|Next number: {l}[, ?|]"
    asked = question(rng, pattern, l=shown)
    answer = phrase(rng, "[{g}|The next number is {g}.|It is {g}.|Next comes {g}.]", g=result)
    worked = f"{working[0].upper()}{working[1:]}. {answer}"
    return Problem("sequence", f"sequence {shown}", asked, steps, answer, worked, str(result), result)


def _counting(rng: random.Random) -> tuple[str, list[int], str]:
    start, count, step = rng.randint(1, 60), rng.randint(3, 12), rng.choice((1, 1, 1, 2, 5, 10, -1, -1))
    start = max(start, count) if step < 0 else start
    numbers = [start + i * step for i in range(count)]
    if step < 0:
        asked = question(rng, "Count [down|backwards] from {a} to {b}[.|]", a=start, b=numbers[-1])
    else:
        tail = f" in steps of {step}" if step > 1 else ""
        asked = question(
            rng, "[Count|Count up|List the numbers] from {a} to {b}{s}[.|]", a=start, b=numbers[-1], s=tail
        )
    return asked, numbers, f"start {start}, step {step}, end {numbers[-1]}"


def _multiples(rng: random.Random) -> tuple[str, list[int], str]:
    base, count = rng.randint(2, 9), rng.randint(3, 10)
    asked = question(rng, "[List|Give me|Write|Name] the first {n} multiples of {k}[.|]", n=count, k=base)
    return asked, [base * i for i in range(1, count + 1)], f"{base} times 1 to {count}"


def _even_or_odd(rng: random.Random) -> tuple[str, list[int], str]:
    odd, low = rng.random() < 0.5, rng.randint(1, 80)
    high = low + rng.randint(4, 16)
    numbers = [n for n in range(low, high + 1) if n % 2 == odd]
    pattern = "[List|Write|Give me] the {w} numbers [from {a} to {b}|between {a} and {b}][.|]"
    asked = question(rng, pattern, w="odd" if odd else "even", a=low, b=high)
    return asked, numbers, f"first {numbers[0]}, step 2, last {numbers[-1]}"


def listing(rng: random.Random) -> Problem:
    """Numbers to count through, multiples, even or odd numbers, weekdays or months."""
    if rng.random() < 0.12:
        names, what = rng.choice(((WEEKDAYS, "days of the week"), (MONTHS, "months of the year")))
        asked = question(rng, "[List|Name|What are|Tell me] [all |]the {w}[?|.|]", w=what)
        gold = ", ".join(names)
        return Problem("listing", f"listing {what} {asked}", asked, f"the {what} in order", gold, gold, gold)
    asked, numbers, steps = rng.choice((_counting, _counting, _multiples, _even_or_odd))(rng)
    gold = ", ".join(map(str, numbers))
    return Problem("listing", f"listing {gold}", asked, steps, gold, gold, gold)
