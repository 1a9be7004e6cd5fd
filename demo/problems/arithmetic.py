"""Sums, differences, products, quotients, totals and short expressions."""

from __future__ import annotations

import random

from demo.phrasing import phrase, question
from demo.problem import Problem, sum_key
from demo.traces import add_steps, divide_steps, multiply_line, multiply_steps, subtract_steps
from demo.words import number

_ASK = "[What is|What's|Calculate|Compute|Work out|How much is|Tell me|]"
_RESULT = "[{e} = {v}|The [answer|result] is {v}.|{v}|It is {v}.|That [makes|gives] {v}.|{e} = {v}]"


def _solved(
    rng: random.Random, task: str, key: str, asked: str, steps: str, working: str, expression: str, value: int
) -> Problem:
    """Return the problem with a varied answer; `working` precedes it when there is no thinking."""
    answer = phrase(rng, _RESULT, e=expression, v=value)
    worked = f"{working}. {answer}" if working else answer
    return Problem(task, key, asked, steps, answer, worked, str(value), value)


def _operands(rng: random.Random) -> tuple[int, int]:
    digits = rng.choice((1, 2, 2, 3, 3, 4, 4, 5))
    pair = [number(rng, digits), number(rng, rng.randint(1, digits))]
    rng.shuffle(pair)
    return pair[0], pair[1]


def add(rng: random.Random) -> Problem:
    """A sum of two numbers of up to five digits."""
    a, b = _operands(rng)
    pattern = f"{_ASK} [{{a}} + {{b}}|{{a}}+{{b}}|{{a}} plus {{b}}][?|.|]|[Add|Sum up] {{a}} and {{b}}[.|]"
    pattern += "|[Find|Give me|What is] the sum of {a} and {b}[?|.]"
    asked = question(rng, pattern, a=a, b=b)
    return _solved(rng, "add", sum_key(a, "+", b), asked, add_steps(a, b), "", f"{a} + {b}", a + b)


def subtract(rng: random.Random) -> Problem:
    """A difference, sometimes below zero."""
    a, b = _operands(rng)
    if a < b and rng.random() < 0.8:
        a, b = b, a
    pattern = f"{_ASK} [{{a}} - {{b}}|{{a}}-{{b}}|{{a}} minus {{b}}][?|.|]|Subtract {{b}} from {{a}}[.|]"
    pattern += "|[Take|Take away] {b} from {a}[.|]|What [is left|remains] if I take {b} from {a}?"
    asked = question(rng, pattern, a=a, b=b)
    return _solved(rng, "subtract", sum_key(a, "-", b), asked, subtract_steps(a, b), "", f"{a} - {b}", a - b)


def multiply(rng: random.Random) -> Problem:
    """A product of numbers of one to three digits."""
    a_digits, b_digits = rng.choice(((1, 1), (1, 1), (2, 1), (1, 2), (2, 2), (2, 2), (2, 2), (3, 1)))
    a, b = number(rng, a_digits), number(rng, b_digits)
    pattern = f"{_ASK} [{{a}} * {{b}}|{{a}}*{{b}}|{{a}} x {{b}}|{{a}} × {{b}}|{{a}} times {{b}}][?|.|]"
    pattern += "|Multiply {a} by {b}[.|]|[Find|Give me|What is] the product of {a} and {b}[?|.]"
    asked = question(rng, pattern, a=a, b=b)
    key = sum_key(a, "*", b)
    return _solved(
        rng, "multiply", key, asked, multiply_steps(a, b), multiply_line(a, b), f"{a} * {b}", a * b
    )


def divide(rng: random.Random) -> Problem:
    """An exact quotient by a number from 2 to 12."""
    divisor, quotient = rng.randint(2, 12), number(rng, rng.choice((1, 2, 2, 3)))
    a = divisor * quotient
    pattern = f"{_ASK} [{{a}} / {{b}}|{{a}}/{{b}}|{{a}} ÷ {{b}}|{{a}} divided by {{b}}][?|.|]|Divide {{a}} by {{b}}[.|]"
    asked = question(rng, pattern, a=a, b=divisor)
    steps = divide_steps(a, divisor)
    working = steps if quotient > 9 else ""
    return _solved(rng, "divide", f"{a}/{divisor}", asked, steps, working, f"{a} / {divisor}", quotient)


def total(rng: random.Random) -> Problem:
    """A sum of three to five small numbers, added up one after the other."""
    numbers = [rng.randint(1, rng.choice((20, 99))) for _ in range(rng.randint(3, 5))]
    listing = rng.choice((" + ", ", ")).join(map(str, numbers))
    lead = (
        f"{_ASK} {{l}}[?|]"
        if "+" in listing
        else "[Add up|Sum up|What is the sum of|What is the total of] {l}[?|]"
    )
    asked = question(rng, lead, l=listing)
    running, terms = numbers[0], []
    for n in numbers[1:]:
        terms.append(f"{running}+{n}={running + n}")
        running += n
    steps = ", ".join(terms)
    return _solved(rng, "total", f"total {sorted(numbers)}", asked, steps, steps, "The total", running)


def expression(rng: random.Random) -> Problem:
    """Three numbers and two operators, where multiplication or brackets come first."""
    a, b, c = (rng.randint(2, 20) for _ in range(3))
    form = rng.randrange(4)
    if form == 0:
        text, inner, last, value = f"{a} + {b} * {c}", (b, "*", c), f"{a}+{b * c}", a + b * c
    elif form == 1:
        text, inner, last, value = f"({a} + {b}) * {c}", (a, "+", b), f"{a + b}*{c}", (a + b) * c
    elif form == 2:
        text, inner, last, value = f"{a} * {b} + {c}", (a, "*", b), f"{a * b}+{c}", a * b + c
    else:
        text, inner, last, value = f"{a} * {b} - {c}", (a, "*", b), f"{a * b}-{c}", a * b - c
    x, operator, y = inner
    first = add_steps(x, y) if operator == "+" else multiply_steps(x, y)
    left, right = (value // c, c) if form == 1 else (0, 0)
    second = multiply_steps(left, right) if form == 1 else f"{last}={value}"
    steps = f"{'brackets' if form == 1 else 'multiplication'} first: {first}\nthen {second}"
    asked = question(rng, f"{_ASK} {{t}}[?|]", t=text)
    line = ", ".join(
        part for part in (_line(x, operator, y), _line_last(form, last, left, right, value)) if part
    )
    return _solved(rng, "expression", f"expression {text}", asked, steps, line, text, value)


def _line(x: int, operator: str, y: int) -> str:
    """Return the first operation of an expression on one line."""
    return f"{x}+{y}={x + y}" if operator == "+" else multiply_line(x, y) or f"{x}*{y}={x * y}"


def _line_last(form: int, last: str, left: int, right: int, value: int) -> str:
    """Return the second operation of an expression on one line."""
    return (multiply_line(left, right) or f"{last}={value}") if form == 1 else f"{last}={value}"
