"""A conversation of twenty turns with the embedded model, and how it is held with any program that answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]

SYSTEM = "You are a helpful assistant. Think step by step."

# Problems that the model was made for, all about as long, so that turns differ by what is remembered and not by what is new.
QUESTIONS = (
    "Sort these numbers from low to high: 12, 64, 8, 73, 45, 21",
    "Order these words alphabetically: boat, ball, fig, trumpet, peach",
    "In the garage there are 18 lemons, 29 figs and 54 more lemons. How many lemons are there?",
    "If it is 17:20, what time was it 3 hours and 35 minutes earlier?",
    "What is the sum of 17, 5, 32, 26, 41, 9?",
    "Order these words alphabetically: soup, season, cellar, boat, river",
    "What comes next: 91, 79, 67, 55, 43, ...",
    "Sort these numbers from high to low: 14, 87, 32, 5, 66, 40",
    "If today is Wednesday, what day was it 17 days ago?",
    "What is the sum of 80, 13, 8, 24, 51, 6?",
    "Please repeat this after me: blue 40 36 prairie river 7",
    "Order these words alphabetically: lamp, garden, window, apple, stone",
    "In the kitchen there are 23 plums, 17 pears and 48 more plums. How many plums are there?",
    "If it is 09:45, what time will it be 2 hours and 50 minutes later?",
    "List the even numbers from 56 to 72.",
    "Sort these numbers from low to high: 91, 7, 38, 55, 20, 63",
    "What is the time 1 hour and 45 minutes before 11:30?",
    "What is the sum of 22, 9, 47, 16, 35, 3?",
    "Order these words alphabetically: horse, candle, mirror, bread, tiger",
    "Order these words alphabetically: moon, mouse, pear, violin, grape",
)


@dataclass(frozen=True)
class Reply:
    """What one program made of one prompt.

    Attributes:
        prompt_tokens, cached_tokens: of the prompt, and those of them that were not read again.
        text_ms: from the request to the first text, the thought's; token_ms: to the first token, where that can be seen.
        ahead_tokens, ahead_ms: read before the request, while the user would type, and the time that took.
        load_ms: from the start of a process to the request, where every turn is answered by a new one.
    """

    text: str
    thinking: str
    completion_tokens: int
    prompt_tokens: int
    cached_tokens: int
    text_ms: float
    token_ms: float | None = None
    ahead_tokens: int = 0
    ahead_ms: float = 0.0
    load_ms: float = 0.0

    @property
    def read_tokens(self) -> int:
        """Prompt tokens that went through the model."""
        return self.prompt_tokens - self.cached_tokens

    def message(self) -> Message:
        """The reply as clients send it back with the next question."""
        return {"role": "assistant", "content": self.text, "reasoning_content": self.thinking}


@dataclass(frozen=True)
class Turn:
    """One exchange: the messages that were sent, and the reply to them."""

    messages: tuple[Message, ...]
    reply: Reply

    def history(self) -> tuple[Message, ...]:
        """The messages with the reply."""
        return (*self.messages, self.reply.message())


Answerer = Callable[[Sequence[Message]], Reply]


def opening(question: str) -> tuple[Message, ...]:
    """The messages of a conversation's first request."""
    return ({"role": "system", "content": SYSTEM}, {"role": "user", "content": question})


def next_turn(held: Sequence[Turn], question: str, answer: Answerer) -> Turn:
    """The turn that follows those that were held."""
    asked = {"role": "user", "content": question}
    messages = (*held[-1].history(), asked) if held else opening(question)
    return Turn(messages, answer(messages))
