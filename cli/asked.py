"""What one command line asks: files, then what is piped in, then the prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli import terminal
from cli.attaching import named_file, read_text
from cli.conversation import block
from cli.piped import piped_text
from cli.texts import MOST_BYTES
from mlx_qnext.errors import ContextLengthError, UsageError

_STDIN = "stdin"


@dataclass(frozen=True)
class Asked:
    """A question, and the texts it is about.

    Attributes:
        texts: as the message holds them, by the names that people know them by.
    """

    texts: dict[str, str]
    prompt: str

    @classmethod
    def read(cls, prompt: str | None, files: Sequence[str]) -> Asked:
        """With what is piped in: the prompt where none is given, or `-` is; a text that it is about otherwise.

        Raises:
            UsageError: there is no prompt, or a file or stdin is no text.
            ContextLengthError: a file is larger than any context.
        """
        texts = {path: block(path, read_text(_file(path), MOST_BYTES)) for path in files}
        if prompt is None or prompt == "-":
            return cls(texts, _sound(_piped_prompt(prompt)))
        asked = _sound(prompt)
        if terminal.stdin_is_open() and not terminal.stdin_is_terminal():
            piped = piped_text(_say_that_stdin_is_awaited)
            texts |= {_STDIN: f"{piped.rstrip()}\n\n"} if piped.strip() else {}
        return cls(texts, asked)

    @property
    def message(self) -> str:
        """One text. Another question about the same texts begins with the same tokens, which then need not be read again."""
        return "".join(self.texts.values()) + self.prompt

    @contextmanager
    def measured(self, count: Callable[[str], int], limit_tokens: int) -> Iterator[None]:
        """Within, a prompt that is too long is one whose texts are too long, where it has any; `count` says how many tokens a
        text has.

        Raises:
            ContextLengthError: it is, and this is how long each of them is.
        """
        try:
            yield
        except ContextLengthError:
            if not self.texts:
                raise
            sizes = ", ".join(f"{name} has {count(text):,}" for name, text in self.texts.items())
            raise ContextLengthError(
                f"The context holds {limit_tokens:,} tokens, and {sizes}: leave out a part of it, or start with a longer "
                "--context."
            ) from None


def _file(path: str) -> Path:
    if not path:
        raise UsageError("--file names no file: it is empty.")
    return named_file(path)


def _say_that_stdin_is_awaited() -> None:
    terminal.note(
        terminal.err(), "Waiting for the end of stdin, which the prompt is about; </dev/null gives it none."
    )


def _piped_prompt(argument: str | None) -> str:
    if argument is None and terminal.stdin_is_terminal():
        raise UsageError('There is no prompt: write one, as in qnext generate "Hello", or pipe one in.')
    return piped_text()


def _sound(prompt: str) -> str:
    if not prompt.strip():
        raise UsageError("The prompt is empty: write what the model should answer.")
    return prompt
