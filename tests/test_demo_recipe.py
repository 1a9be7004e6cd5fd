"""The recipe of the embedded model: its problems are right, its split is honest, its text is the template's."""

from __future__ import annotations

import datetime
import functools
import json
import random
import re
from fractions import Fraction
from pathlib import Path

import jinja2.sandbox
import pytest

from demo import conversation
from demo.capitals import CAPITALS
from demo.cases import cases
from demo.chatml import pieces, prompt
from demo.problem import Problem, Split, belongs_to, is_held_out, sum_key, sums_in
from demo.problems import WEIGHTS, draw
from demo.problems.calendar import is_leap
from demo.scoring import is_correct
from demo.tools import FAMILIES, HELD_OUT_FAMILIES, draw_tool
from demo.traces import add_steps, divide_steps, multiply_line, multiply_steps, subtract_steps
from demo.words import WEEKDAYS

TEMPLATE = Path(__file__).parent.parent / "demo" / "chat_template.jinja"
EQUATION = re.compile(r"(?<![\w:.])(-?\d+(?:[-+*/]-?\d+)+)=(-?\d+)(?![\d*+/])(?: rest (\d+))?")


def problems(maker, count=150, split: Split = "train"):
    rng = random.Random(f"{maker.__name__} {split}")
    return [draw(rng, split, maker) for _ in range(count)]


def evaluate(expression: str) -> Fraction:
    """The value of digits joined by + - * /, by the usual precedence, without eval."""
    total = Fraction(0)
    for sign, term in re.findall(r"([-+]?)((?:\d+)(?:[*/]\d+)*)", expression):
        product = Fraction(1)
        for operator, factor in re.findall(r"([*/]?)(\d+)", term):
            product = product / int(factor) if operator == "/" else product * int(factor)
        total += -product if sign == "-" else product
    return total


def wrong_equations(text: str) -> list[str]:
    wrong = []
    for expression, result, rest in EQUATION.findall(text):
        expected = evaluate(expression.replace("--", "+"))
        value = expected.numerator // expected.denominator if rest else expected
        if value != int(result):
            wrong.append(f"{expression}={result}")
    return wrong


@pytest.mark.parametrize("maker", WEIGHTS, ids=lambda maker: maker.__name__)
def test_every_equation_written_in_a_solution_is_true(maker):
    for problem in problems(maker):
        for text in (problem.steps, problem.worked):
            assert not wrong_equations(text), (problem.question, text)


def test_a_false_equation_would_be_noticed():
    assert wrong_equations("7+5=13, carry 1") == ["7+5=13"]
    assert wrong_equations("30/7=4 rest 2") == []


@pytest.mark.parametrize(
    ("steps", "result"),
    [
        (add_steps, lambda a, b: a + b),
        (subtract_steps, lambda a, b: a - b),
        (multiply_steps, lambda a, b: a * b),
        (multiply_line, lambda a, b: a * b),
    ],
)
def test_written_arithmetic_ends_in_the_result(steps, result):
    rng = random.Random(5)
    for _ in range(500):
        a, b = rng.randrange(1000), rng.randrange(100)
        text = steps(a, b)
        if text:
            assert int(re.findall(r"(?<!\d)-\d+$|\d+$", text)[-1]) == result(a, b), (a, b, text)


def test_long_division_ends_in_the_quotient_and_refuses_a_remainder():
    for divisor in range(2, 13):
        for quotient in (0, 1, 7, 10, 99, 305, 1000):
            assert divide_steps(divisor * quotient, divisor).rstrip().endswith(str(quotient))
    with pytest.raises(ValueError, match="not a multiple"):
        divide_steps(7, 2)


def numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def last_word(text: str) -> str:
    return re.findall(
        r"[a-z]+", re.sub(r"\b(backwards|reversed|spelled|is|the|letters|in)\b", "", text.lower())
    )[-1]


SOLVED_AGAIN = {
    "add": lambda p: sum(numbers(p.question)),
    "multiply": lambda p: numbers(p.question)[0] * numbers(p.question)[1],
    "divide": lambda p: numbers(p.question)[0] // numbers(p.question)[1],
    "total": lambda p: sum(numbers(p.question)),
    "compare": lambda p: (max if re.search("larger|bigger|greater", p.question) else min)(
        numbers(p.question)
    ),
    "parity": lambda p: "Yes" if (numbers(p.question)[0] % 2 == 0) == ("even" in p.question) else "No",
    "leap year": lambda p: "Yes" if _leap(numbers(p.question)[0]) else "No",
    "count": lambda p: p.key.split()[1].count(p.key[-1]),
    "length": lambda p: len(p.key.split()[1]),
    "reverse": lambda p: "-".join(p.key.split()[1][::-1]),
    "spell": lambda p: "-".join(p.key.split()[1]),
}


def _leap(year: int) -> bool:
    try:
        datetime.date(year, 2, 29)
    except ValueError:
        return False
    return True


def test_gold_answers_agree_with_an_independent_solution():
    checked = set()
    for maker in WEIGHTS:
        for problem in problems(maker, 60, "train") + problems(maker, 60, "test"):
            if problem.task in SOLVED_AGAIN:
                assert str(SOLVED_AGAIN[problem.task](problem)) == problem.gold, problem
                checked.add(problem.task)
    assert checked == set(SOLVED_AGAIN)


def test_subtraction_respects_the_order_of_its_question():
    maker = next(m for m in WEIGHTS if m.__name__ == "subtract")
    for problem in problems(maker):
        a, b = numbers(problem.question)
        swapped = re.search(r"^(subtract|take)", problem.question.lower()) or "take" in problem.question
        assert problem.gold == str(b - a if swapped else a - b), problem.question


def test_sequences_really_continue_the_shown_terms():
    maker = next(m for m in WEIGHTS if m.__name__ == "sequence")
    for problem in problems(maker):
        shown, nxt = numbers(problem.key), int(problem.gold)
        differences = {b - a for a, b in zip(shown, [*shown[1:], nxt])}
        ratios = {Fraction(b, a) for a, b in zip(shown, [*shown[1:], nxt]) if a}
        fibonacci = all(a + b == c for a, b, c in zip(shown, shown[1:], [*shown[2:], nxt]))
        roots = [round(t**0.5) for t in [*shown, nxt]]
        squares = all(r * r == t for r, t in zip(roots, [*shown, nxt]))
        assert len(differences) == 1 or len(ratios) == 1 or fibonacci or squares, problem.question


def test_weekdays_months_and_clock_times_agree_with_datetime():
    makers = {m.__name__: m for m in WEIGHTS}
    for problem in problems(makers["weekday"]):
        _, start, days, later = problem.key.split()
        day = datetime.date(2024, 1, 1) + datetime.timedelta(
            int(start) + (int(days) if later == "True" else -int(days))
        )
        assert problem.gold == WEEKDAYS[day.weekday()]
    for problem in problems(makers["clock"]):
        _, start, change, later = problem.key.split()
        shift = int(change) if later == "True" else -int(change)
        moment = datetime.datetime(2024, 5, 5) + datetime.timedelta(minutes=int(start) + shift)
        assert problem.gold == moment.strftime("%H:%M")
        assert problem.steps.endswith(problem.gold)
    assert [y for y in range(1890, 2110) if is_leap(y)] == [y for y in range(1890, 2110) if _leap(y)]


def test_answers_and_worked_answers_are_judged_correct_and_others_are_not():
    rng = random.Random(2)
    for maker in WEIGHTS:
        for problem in problems(maker, 40):
            assert is_correct(problem, problem.answer), problem
            assert is_correct(problem, problem.worked), problem
            assert not is_correct(problem, "")
    for answered in (False, True):
        chat = conversation.tool_call(rng, "test", True, answered)
        assert is_correct(chat.problem, pieces(chat)[-1][0]), chat.problem
        assert not is_correct(chat.problem, "I do not know.")


def test_a_wrong_number_is_judged_wrong():
    problem = Problem("add", "1+2", "1+2?", "1+2=3", "3", "3", "3", 3)
    assert not is_correct(problem, "The answer is 13.")
    assert not is_correct(problem, "3 or rather 4")


def chats(count: int, seed: int = 0):
    rng = random.Random(seed)
    return [conversation.make(rng) for _ in range(count)]


def test_the_same_seed_gives_the_same_chats_and_another_seed_others():
    assert chats(200, 7) == chats(200, 7)
    assert chats(200, 7) != chats(200, 8)


def test_training_chats_never_contain_a_held_out_problem_or_sum():
    for maker in WEIGHTS:
        for problem in problems(maker):
            assert not is_held_out(problem.key)
            assert not any(map(is_held_out, sums_in(problem.steps + "\n" + problem.worked)))
    for chat in chats(1500):
        if chat.problem.task in ("add", "subtract", "multiply", "follow-up", "story", "expression"):
            assert belongs_to(chat.problem, "train")


def test_training_and_test_keys_are_disjoint():
    for maker in WEIGHTS:
        train = {p.key for p in problems(maker)}
        assert train.isdisjoint(p.key for p in problems(maker, 60, "test"))


def test_every_task_can_be_measured_on_held_out_problems():
    for thinking in (True, False):
        asked = cases(12, thinking)
        assert asked == cases(12, thinking)
        for case in asked:
            assert case.task in ("talk", "recall", "tool call", "tool answer") or is_held_out(
                case.problem.key
            )


def test_the_tools_measured_are_those_with_held_out_uses():
    rng = random.Random(1)
    for family in FAMILIES:
        keys = {f"{family.__name__} {sorted(map(str, family(rng).arguments.values()))}" for _ in range(2000)}
        assert any(map(is_held_out, keys)) == (family in HELD_OUT_FAMILIES)
    with pytest.raises(ValueError, match="no held-out uses"):
        draw_tool(rng, "test", next(f for f in FAMILIES if f not in HELD_OUT_FAMILIES))


def test_a_sum_is_the_same_problem_in_either_order():
    assert sum_key(47, "+", 85) == sum_key(85, "+", 47)
    assert sum_key(47, "-", 85) != sum_key(85, "-", 47)
    assert list(sums_in("85 + 47 = 132, 7+5=12, at 14:35")) == [sum_key(47, "+", 85)]


def test_follow_ups_use_the_number_before_them():
    for seed in range(100):
        chat = conversation.numeric_dialogue(random.Random(seed), "train", seed % 2 == 0)
        assert not wrong_equations(chat.problem.steps)
        before = numbers(chat.problem.steps.split("\n")[0])[0]
        assert str(before) in chat.turns[-3].text


def test_what_the_user_said_about_themselves_is_recalled_as_last_told():
    for seed in range(100):
        chat = conversation.recall_dialogue(random.Random(seed), True)
        said = " ".join(turn.text for turn in chat.turns if turn.role == "user")
        assert chat.problem.gold in said or chat.problem.gold == "not told me"


@functools.cache
def template() -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(TEMPLATE.read_text())


def render(chat, upto: int, **options) -> str:
    messages = [turn.message() for turn in chat.turns[:upto]]
    return template().render(messages=messages, tools=list(chat.tools) or None, **options)


def test_the_text_learned_from_is_what_the_template_renders():
    for chat in chats(600, 3):
        rendered = render(chat, len(chat.turns), add_generation_prompt=False)
        assert "".join(text for text, _ in pieces(chat)) + "\n" == rendered
        given = render(chat, len(chat.turns) - 1, add_generation_prompt=True, enable_thinking=chat.thinking)
        assert prompt(chat) == given


def test_only_what_the_model_writes_is_learned():
    for chat in chats(300, 4):
        learned = "".join(text for text, trained in pieces(chat) if trained)
        assert "<|im_start|>" not in learned
        assert "<tool_response>" not in learned
        assert learned.endswith("<|im_end|>")
        assert chat.thinking == ("<think>" in learned)


def test_capitals_are_well_formed():
    assert len(CAPITALS) > 100
    assert CAPITALS["United Kingdom"] == "London"
    assert all(name.strip() == name and name for pair in CAPITALS.items() for name in pair)
