"""A chat's state: the messages so far, and what a line of input does to them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any, Literal

from mlx_qnext.generate.events import Finished

COMMANDS = {
    "/help": "list these commands",
    "/clear": "forget the conversation",
    "/think": "show or hide the thought: /think show, /think hide",
    "/quit": "leave, as Ctrl-D does",
}

Action = Literal["ask", "say", "quit"]


@dataclass
class Conversation:
    """The messages of one chat.

    Attributes:
        show_thinking: whether the next thought is printed.
    """

    system: str | None
    show_thinking: bool
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
            return "say", "\n".join(f"{command:8} {help_text}" for command, help_text in COMMANDS.items())
        if name == "/clear":
            self._clear()
            return "say", "The conversation is forgotten."
        if name == "/think":
            return "say", self._set_thinking(argument.strip())
        return "say", _unknown(name)

    def question(self, text: str) -> list[dict[str, Any]]:
        """The messages with this question; they stay as they were until `answered`."""
        return [*self.messages, {"role": "user", "content": text}]

    def answered(self, text: str, result: Finished) -> None:
        """Remember the exchange, the thought too: the template decides what of it is read again."""
        reply = {"role": "assistant", "content": result.text, "reasoning_content": result.thinking}
        self.messages = [*self.question(text), reply]

    def _clear(self) -> None:
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def _set_thinking(self, word: str) -> str:
        if word not in ("show", "hide"):
            return "Write /think show or /think hide."
        self.show_thinking = word == "show"
        return f"Thoughts are {'shown' if self.show_thinking else 'hidden'} from now on."


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "/help lists the commands."
    return f"There is no command {name}: {hint}"
