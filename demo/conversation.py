"""Whole chats: single questions, dialogues with a memory, and tool use."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from typing import Any, Literal

from demo.followups import follow_up, recall_fact, tell_fact
from demo.phrasing import phrase
from demo.problem import Problem, Split, belongs_to
from demo.problems import draw
from demo.problems.arithmetic import add, multiply, subtract
from demo.problems.talk import small_talk
from demo.tools import FAMILIES, HELD_OUT_FAMILIES, Family, draw_tool, same_tool
from demo.tools.case import ToolCase
from demo.words import NAMES

Role = Literal["system", "user", "assistant", "tool"]

SYSTEM_PROMPTS = (
    "You are a [helpful|friendly|careful|honest|polite|kind|smart|concise] [assistant|AI assistant|tutor|teacher|robot|friend]."
    "[ Think step by step.| Answer briefly.| Help people with small tasks.| Be concise and correct.|]"
    "|Answer [briefly|politely|in one sentence|correctly].|Be [friendly|concise|honest|brief].|Reply in plain text."
    "|You are [the qnext demo model|a calculator|a very small model|an expert in numbers and words]."
    "|The user is [a child|a student|called {n}|in a hurry]. [Be patient.|Be kind.|Answer briefly.]"
)

ERRORS = (
    "not found",
    "timeout",
    "no connection",
    "permission denied",
    "unknown argument",
    "service unavailable",
)


@dataclass(frozen=True)
class Turn:
    """One message. `thought` is None in turns that are history, and empty where the model does not think.

    Only turns with a thought, even an empty one, are learned from.
    """

    role: Role
    text: str
    thought: str | None = None
    call: dict[str, Any] | None = None

    def message(self) -> dict[str, Any]:
        """Return the turn as a chat template expects it."""
        message: dict[str, Any] = {"role": self.role, "content": self.text}
        if self.call is not None:
            message["tool_calls"] = [{"type": "function", "function": self.call}]
        if self.thought:
            message["reasoning_content"] = self.thought
        return message


@dataclass(frozen=True)
class Conversation:
    """A chat that ends with the assistant's answer to `problem`."""

    turns: tuple[Turn, ...]
    problem: Problem
    thinking: bool
    tools: tuple[dict[str, Any], ...] = ()


def _opening(rng: random.Random, share: float) -> list[Turn]:
    return [Turn("system", phrase(rng, SYSTEM_PROMPTS, n=rng.choice(NAMES)))] if rng.random() < share else []


def _exchange(problem: Problem, thinking: bool, last: bool) -> list[Turn]:
    """Return a question with its answer, which is learned from only at the end of a chat."""
    text = problem.answer if thinking else problem.worked
    thought = (problem.steps if thinking else "") if last else None
    return [Turn("user", problem.question), Turn("assistant", text, thought)]


def single(rng: random.Random, problem: Problem, thinking: bool) -> Conversation:
    """Return a chat of one question."""
    return Conversation((*_opening(rng, 0.25), *_exchange(problem, thinking, True)), problem, thinking)


def _next_exchange(rng: random.Random, history: list[Problem], known: dict[str, str]) -> Problem:
    """Return what the user says next: a follow-up, small talk, something about themselves, or a new question."""
    choice = rng.random()
    if history and choice < 0.5:
        problem = follow_up(rng, history, known)
        if problem is not None and belongs_to(problem, "train"):
            return problem
    if choice < 0.62:
        return small_talk(rng)
    if choice < 0.7:
        return tell_fact(rng, known)
    return draw(rng, "train")


def dialogue(rng: random.Random, thinking: bool) -> Conversation:
    """Return a training chat of several exchanges."""
    history: list[Problem] = []
    known: dict[str, str] = {}
    length = rng.choice((2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 8, 12, 30))
    while len(history) < length:
        history.append(_next_exchange(rng, history, known))
    return _joined(rng, history, thinking)


def _joined(rng: random.Random, history: list[Problem], thinking: bool) -> Conversation:
    turns = _opening(rng, 0.3)
    for index, problem in enumerate(history):
        turns += _exchange(problem, thinking, index == len(history) - 1)
    return Conversation(tuple(turns), history[-1], thinking)


def numeric_dialogue(rng: random.Random, split: Split, thinking: bool) -> Conversation:
    """Return a chat whose last question is about the number before it."""
    while True:
        history = [small_talk(rng)] if rng.random() < 0.3 else []
        history.append(draw(rng, "train", rng.choice((add, subtract, multiply))))
        for _ in range(20):
            problem = follow_up(rng, history, {})
            if problem is not None and problem.task == "follow-up" and belongs_to(problem, split):
                return _joined(rng, [*history, problem], thinking)


def recall_dialogue(rng: random.Random, thinking: bool) -> Conversation:
    """Return a chat in which the user says something and asks for it later."""
    known: dict[str, str] = {}
    history = [tell_fact(rng, known)]
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        history.append(
            rng.choice((small_talk, lambda r: draw(r, "train"), lambda r: tell_fact(r, known)))(rng)
        )
    return _joined(rng, [*history, recall_fact(rng, known)], thinking)


def _call_turn(case: ToolCase, thinking: bool) -> Turn:
    thought = f"The user wants {case.purpose}. I call {case.name}" if thinking else ""
    return Turn("assistant", "", thought, {"name": case.name, "arguments": case.arguments})


def _failing(rng: random.Random, case: ToolCase) -> ToolCase:
    """Return the same use of a tool, with an error as its result."""
    error = rng.choice(ERRORS)
    answer = phrase(
        rng,
        "The tool reports an error: {e}.|That did not work: {e}.|Sorry, {n} failed: {e}.",
        e=error,
        n=case.name,
    )
    return replace(case, result={"error": error}, answer=answer, facts=(error,))


def _result_turns(case: ToolCase, thought: str | None) -> list[Turn]:
    return [
        Turn("tool", json.dumps(case.result, ensure_ascii=False)),
        Turn("assistant", case.answer, thought),
    ]


def _earlier_use(rng: random.Random, case: ToolCase, family: Family) -> list[Turn]:
    """Return a finished use of the same tool, as history."""
    before = same_tool(rng, family, case)
    call = replace(_call_turn(before, False), thought=None)
    return [Turn("user", before.request), call, *_result_turns(before, None)]


def tool_call(rng: random.Random, split: Split, thinking: bool, answered: bool) -> Conversation:
    """Return a chat that ends with a tool call, or with the answer made from its result."""
    family = rng.choice(FAMILIES if split == "train" else HELD_OUT_FAMILIES)
    case = draw_tool(rng, split, family)
    if answered and rng.random() < 0.06:
        case = _failing(rng, case)
    others = rng.sample([f for f in FAMILIES if f is not family], rng.choice((0, 0, 1, 1, 2, 3)))
    tools = [case.schema(), *(other(rng).schema() for other in others)]
    rng.shuffle(tools)
    turns, before = _opening(rng, 0.5), rng.random()
    if before < 0.15:
        turns += _exchange(small_talk(rng), thinking, False)
    elif before < 0.3:
        turns += _earlier_use(rng, case, family)
    turns += [Turn("user", case.request), _call_turn(case, thinking)]
    task, gold = "tool call", json.dumps(turns[-1].call)
    if answered:
        turns += _result_turns(case, "I have the result" if thinking else "")
        task, gold = "tool answer", "\n".join(case.facts)
    problem = Problem(task, f"tool {case.request}", case.request, "", case.answer, case.answer, gold)
    return Conversation(tuple(turns), problem, thinking, tuple(tools))


def tools_unused(rng: random.Random, thinking: bool) -> Conversation:
    """Return a training chat with tools whose question needs none of them, or another one than is there."""
    family, *others = rng.sample(FAMILIES, rng.randint(2, 4))
    tools = tuple(other(rng).schema() for other in others)
    if rng.random() < 0.5:
        case = draw_tool(rng, "train", family)
        names = ", ".join(tool["function"]["name"] for tool in tools)
        answer = f"None of my tools can do that. I can use: {names}."
        steps = f"The user wants {case.purpose}. No tool here does that"
        problem = Problem("no tool", f"none {case.request}", case.request, steps, answer, answer, names)
    else:
        problem = draw(rng, "train")
        while problem.task in ("add", "subtract", "multiply"):
            problem = draw(rng, "train")
    turns = (*_opening(rng, 0.5), *_exchange(problem, thinking, True))
    return Conversation(turns, problem, thinking, tools)


def make(rng: random.Random) -> Conversation:
    """Return a random training chat."""
    thinking, choice = rng.random() < 0.5, rng.random()
    if choice < 0.68:
        return single(rng, draw(rng, "train"), thinking)
    if choice < 0.80:
        return dialogue(rng, thinking)
    if choice < 0.84:
        return numeric_dialogue(rng, "train", thinking)
    if choice < 0.87:
        return recall_dialogue(rng, thinking)
    if choice < 0.975:
        return tool_call(rng, "train", thinking, answered=rng.random() < 0.6)
    return tools_unused(rng, thinking)
