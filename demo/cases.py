"""The held-out chats that a model is measured on: the same for every model."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from demo import conversation
from demo.conversation import Conversation
from demo.problem import Problem
from demo.problems import WEIGHTS, Maker, draw

SEED = 5


@dataclass(frozen=True)
class Case:
    """A question to a model: its task, whether it may think, and the chat up to the answer."""

    task: str
    thinking: bool
    chat: Conversation

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The chat before its last answer, as messages."""
        return [turn.message() for turn in self.chat.turns[:-1]]

    @property
    def problem(self) -> Problem:
        """The problem to be solved."""
        return self.chat.problem


def _single(maker: Maker, rng: random.Random, thinking: bool) -> Conversation:
    return conversation.single(rng, draw(rng, "test", maker), thinking)


def _tool(answered: bool, rng: random.Random, thinking: bool) -> Conversation:
    return conversation.tool_call(rng, "test", thinking, answered)


def makers() -> list[Callable[[random.Random, bool], Conversation]]:
    """Return one maker of test chats for each task; they take a generator and whether the model thinks."""
    singles: list[Callable[[random.Random, bool], Conversation]] = [
        partial(_single, maker) for maker in WEIGHTS
    ]
    return [
        *singles,
        lambda rng, thinking: conversation.numeric_dialogue(rng, "test", thinking),
        conversation.recall_dialogue,
        partial(_tool, False),
        partial(_tool, True),
    ]


def cases(count: int, thinking: bool, tasks: frozenset[str] = frozenset()) -> list[Case]:
    """Return `count` chats of each task, or of the named tasks, with or without thinking."""
    result = []
    for index, maker in enumerate(makers()):
        rng = random.Random(f"{SEED} {index} {thinking}")
        chats = [maker(rng, thinking) for _ in range(count)]
        result += [Case(chat.problem.task, thinking, chat) for chat in chats]
    return [case for case in result if not tasks or case.task in tasks]
