"""A session that plays a script: for views and commands, without a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from mlx_qnext.generate.events import (
    Event,
    Finished,
    FinishReason,
    GenerationStats,
    Notice,
    PrefillProgress,
    TokensEmitted,
)
from mlx_qnext.generate.request import GenerationConfig
from mlx_qnext.transcript import Segment

STATS = GenerationStats(18, 0, 77, 131.0, 140.0, 91.25)


def thinking(text: str, tokens: int = 1) -> TokensEmitted:
    return TokensEmitted(tuple(range(tokens)), (Segment("thinking", text),))


def answer(text: str, tokens: int = 1) -> TokensEmitted:
    return TokensEmitted(tuple(range(tokens)), (Segment("answer", text),))


def finished(
    text: str = "132", thought: str = "", reason: FinishReason = "stop", stats: GenerationStats = STATS
) -> Finished:
    return Finished(reason, text, thought, (), stats)


SUM: tuple[Event, ...] = (
    Notice("A note."),
    PrefillProgress(0, 18, 0),
    PrefillProgress(18, 18, 0),
    thinking("7 + 5 is 12,\n", 5),
    thinking("carry 1", 2),
    answer("It is ", 2),
    answer("132.", 2),
    finished("It is 132.", "7 + 5 is 12,\ncarry 1"),
)


class ScriptedSession:
    """Plays the same events for every request, and remembers what it was asked; also what an engine has to tell about it."""

    plan = SimpleNamespace(context_tokens=8192)

    def __init__(self, events: Sequence[Event] = SUM) -> None:
        self.events = events
        self.asked: list[Sequence[Any]] = []
        self.cancelled = False

    def generate(self, messages: Sequence[Any], config: GenerationConfig) -> Iterator[Event]:
        self.asked.append(messages)
        return iter(self.events)

    def cancel(self) -> None:
        self.cancelled = True
