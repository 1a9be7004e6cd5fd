"""A chat's state: the messages so far, and what a line of input does to them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any, Literal

from cli.views.thought import Thinking
from mlx_qnext.generate.events import Finished

COMMANDS = {
    "/help": "list these commands",
    "/clear": "forget the conversation",
    "/think": "what becomes of thoughts: /think show, /think fold, /think hide",
    "/quit": "leave, as Ctrl-D does",
}

_HELP = "\n".join(
    [
        *(f"{name:8} {meaning}" for name, meaning in COMMANDS.items()),
        "A line that ends in \\ goes on with the next; Ctrl-C stops an answer.",
    ]
)
_THOUGHTS = {Thinking.show: "shown", Thinking.fold: "folded away when they end", Thinking.hide: "hidden"}

Action = Literal["ask", "say", "quit"]


@dataclass
class Conversation:
    """The messages of one chat.

    Attributes:
        thinking: what becomes of the next thought on screen.
    """

    system: str | None
    thinking: Thinking
    messages: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._clear()

    def read(self, line: str) -> tuple[Action, str]:
        """What a line means: a question to ask, something to say to the user, or leaving."""
        text = line.strip()
        if not text.startswith("/"):
            return "ask", text
        name, _, argument = text.partition(" ")
        if name == "/quit":
            return "quit", ""
        if name == "/help":
            return "say", _HELP
        if name == "/clear":
            self._clear()
            return "say", "The conversation is forgotten."
        if name == "/think":
            return "say", self._set_thinking(argument.strip())
        return "say", _unknown(name)

    def question(self, text: str) -> list[dict[str, Any]]:
        """The messages with this question; they stay as they were until `answered`."""
        return [*self.messages, {"role": "user", "content": text}]

    def answered(self, text: str, result: Finished) -> bool:
        """Remember the exchange, the thought too: the template decides what of it is read again.

        `False`, and nothing is remembered, where the answer was stopped before its first word.
        """
        if result.reason == "cancelled" and not (result.text or result.thinking):
            return False
        reply = {"role": "assistant", "content": result.text, "reasoning_content": result.thinking}
        self.messages = [*self.question(text), reply]
        return True

    def _clear(self) -> None:
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def _set_thinking(self, word: str) -> str:
        if word not in list(Thinking):
            return (
                f"Write one of {', '.join(f'/think {mode}' for mode in Thinking)}; now it is {self.thinking}."
            )
        self.thinking = Thinking(word)
        return f"Thoughts are {_THOUGHTS[self.thinking]} from now on."


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "/help lists the commands."
    return f"There is no command {name}: {hint}"
