"""A chat's state: what was said so far, and what a question makes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from cli.views.thought import Thinking
from mlx_qnext.generate.events import Finished

Message: TypeAlias = dict[str, Any]

_NEWLINE = "\n"

# Where the user's own words begin in a message that files lead; templates know no such field.
ASKED_FROM = "asked_from"


@dataclass(frozen=True)
class Attachment:
    """A text file that the next question is about.

    Attributes:
        file: where it is, whatever it was called. tokens: what its block takes of the context.
    """

    file: Path
    text: str
    tokens: int

    @property
    def name(self) -> str:
        """As the question has it."""
        return self.file.name


@dataclass(frozen=True)
class Question:
    """What is asked, after which part of what was said; until it is answered, nothing is forgotten.

    `files` are blocks of text that come before it.
    """

    past: tuple[Message, ...]
    text: str
    files: str = ""

    @property
    def message(self) -> Message:
        """As a session and a saved one hold it."""
        # Files first: another question about them then needs no second reading of them.
        message: Message = {"role": "user", "content": self.files + self.text}
        return message | ({ASKED_FROM: len(self.files)} if self.files else {})


@dataclass
class Conversation:
    """The messages of one chat.

    Attributes:
        system: the system message, which leads them; `None` or empty is none.
        thinking: what becomes of the next thought on screen.
        said: all other messages.
        attached: files for the next question.
    """

    system: str | None
    thinking: Thinking
    said: list[Message] = field(default_factory=list)
    attached: list[Attachment] = field(default_factory=list)

    @property
    def messages(self) -> list[Message]:
        """As a session and a saved one hold them."""
        return self._led(self.said)

    @property
    def questions(self) -> list[str]:
        """What was asked so far, oldest first, without the files; they are numbered from 1."""
        return [_parted(self.said[at])[1] for at in self._turns()]

    def question(self, text: str) -> Question:
        """The next one, about what is attached."""
        return Question(
            tuple(self.said), text, "".join(block(each.name, each.text) for each in self.attached)
        )

    def attached_from(self, file: Path) -> Attachment | None:
        """What is attached of this file."""
        return next((each for each in self.attached if each.file == file), None)

    def attach(self, attachment: Attachment) -> None:
        """It is part of the next question, in the place of what was attached of the same file."""
        before = self.attached_from(attachment.file)
        if before is None:
            self.attached.append(attachment)
        else:
            self.attached[self.attached.index(before)] = attachment

    def instead_of(self, number: int, text: str | None = None) -> Question:
        """Another text for a question, or the same one again, from where it was asked and about the same files; 0 is the last.

        Raises:
            IndexError: so many were not asked.
        """
        turns = self._turns()
        if number < 0:
            raise IndexError(number)
        at = turns[number - 1]
        files, asked = _parted(self.said[at])
        return Question(tuple(self.said[:at]), asked if text is None else text, files)

    def prompt(self, question: Question) -> list[Message]:
        """The messages to answer."""
        return self._led([*question.past, question.message])

    def answered(self, question: Question, result: Finished) -> bool:
        """Remember the exchange, the thought too: the template decides what of it is read again. What was said after the
        question's past is forgotten, and what was attached for a new one is not any more.

        `False`, and nothing is changed, where the answer was stopped before its first word.
        """
        if result.reason == "cancelled" and not (result.text or result.thinking):
            return False
        reply = {"role": "assistant", "content": result.text, "reasoning_content": result.thinking}
        if question.past == tuple(self.said):
            self.attached = []
        self.said = [*question.past, question.message, reply]
        return True

    def undo(self) -> str:
        """Forget the last question and its answer; returns the question.

        Raises:
            IndexError: nothing was asked.
        """
        last = self.instead_of(0)
        self.said = list(last.past)
        return last.text

    def clear(self) -> None:
        """Forget everything but the system message."""
        self.said, self.attached = [], []

    def go_on_from(self, messages: Sequence[Message]) -> None:
        """Be another conversation."""
        leads = bool(messages) and messages[0].get("role") == "system"
        self.system = text_of(messages[0]) if leads else None
        self.said = list(messages[1:] if leads else messages)

    def _led(self, messages: Sequence[Message]) -> list[Message]:
        return [*([{"role": "system", "content": self.system}] if self.system else []), *messages]

    def _turns(self) -> list[int]:
        return [at for at, message in enumerate(self.said) if message.get("role") == "user"]


def block(name: str, text: str) -> str:
    """A file as a question holds it: its name, and its text between fences that it has none like."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{name}:\n{fence}\n{text.removesuffix(_NEWLINE)}\n{fence}\n\n"


def _parted(message: Mapping[str, Any]) -> tuple[str, str]:
    """The files of a question, and the question."""
    text, begins = text_of(message), message.get(ASKED_FROM, 0)
    return text[:begins], text[begins:]


def text_of(message: Mapping[str, Any]) -> str:
    """A message's text, however it is held: as one, or in parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
