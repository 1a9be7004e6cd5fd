"""What a person types: one text a turn, edited where the terminal can show that, and silence while an answer comes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TextIO

from rich.console import Console

from cli.input_history import InputHistory
from cli.multiline import begun_line, meant
from cli.terminal import note

PROMPT = "› "
CONTINUATION = "… "
_DUMB = ("dumb", "unknown")


class Reader(Protocol):
    """Where texts come from."""

    @property
    def has_text(self) -> bool:
        """Whether an interrupt dropped any."""
        ...

    @property
    def trouble(self) -> str | None:
        """A sentence for the user, once there is one."""
        ...

    def read(self) -> str:
        """The next text, complete. Raises `EOFError` at the end, and `KeyboardInterrupt`."""
        ...

    def close(self) -> None:
        """Called at the end."""
        ...


def typed_turns(err: Console, history: InputHistory) -> Generator[str, None, None]:
    """One text a turn, until the end of input or two interrupts in a row, the second without a text that it would drop.

    Texts of several lines are as `cli.multiline` says. Nothing that is typed between turns shows: it waits for the next
    prompt. The terminal is as it was before when this is closed. Needs a terminal on stdin. What was typed before is in the
    history, which only an editor needs.
    """
    screen = _screen()
    if screen is None or os.environ.get("TERM", "").lower() in _DUMB:
        with _terminal_mode(_unechoed):
            yield from _turns(_Lines(screen), err)
        return
    # Only somebody who types waits for it.
    from cli.editor import Editor

    editor = Editor(screen, history, PROMPT, CONTINUATION)
    with _terminal_mode(_as_keys):
        yield from _turns(editor, err)


def _turns(reader: Reader, err: Console) -> Iterator[str]:
    told = interrupted = False
    try:
        while True:
            if reader.trouble is not None and not told:
                told = True
                note(err, reader.trouble)
            try:
                text = reader.read()
            except EOFError:
                return
            except KeyboardInterrupt:
                if interrupted and not reader.has_text:
                    return
                interrupted = True
                note(err, "Ctrl-C again, or Ctrl-D, leaves.")
                continue
            interrupted = False
            yield meant(text)
    finally:
        reader.close()


class _Lines:
    """Texts line by line, as the terminal itself has them edited; nothing but prompts is written to it."""

    has_text = False
    trouble = None

    def __init__(self, screen: TextIO | None) -> None:
        self._screen = screen

    def read(self) -> str:
        with _terminal_mode(_echoed):
            try:
                text = self._line(PROMPT)
                while (longer := begun_line(text)) is not None:
                    text = longer + self._line(CONTINUATION)
            except (EOFError, KeyboardInterrupt):
                self._show("\n")
                raise
        return text

    def close(self) -> None:
        pass

    def _line(self, prompt: str) -> str:
        self._show(prompt)
        line = sys.stdin.buffer.readline()
        if not line:
            raise EOFError
        return line.decode("utf-8", "replace").removesuffix("\n")

    def _show(self, text: str) -> None:
        if self._screen is not None:
            self._screen.write(text)
            self._screen.flush()


def _screen() -> TextIO | None:
    """Where a prompt is shown: among the answers only if everything else is not looked at."""
    return next((each for each in (sys.stderr, sys.stdout) if each is not None and each.isatty()), None)


@contextmanager
def _terminal_mode(change: Callable[[list[Any]], None]) -> Iterator[None]:
    """Within, the terminal on stdin treats what is typed in another way."""
    # Not on every platform, and only where someone types.
    import termios

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    changed = termios.tcgetattr(descriptor)
    change(changed)
    termios.tcsetattr(descriptor, termios.TCSADRAIN, changed)
    try:
        yield
    finally:
        # It may have gone away.
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _echoed(attributes: list[Any]) -> None:
    import termios

    attributes[3] |= termios.ECHO


def _unechoed(attributes: list[Any]) -> None:
    import termios

    attributes[3] &= ~termios.ECHO


def _as_keys(attributes: list[Any]) -> None:
    """Keys wait as they were typed, for an editor, in any number; those that interrupt still do.

    A terminal that keeps lines itself loses all of a line but its first kilobytes, and what a key means besides.
    """
    import termios

    attributes[0] &= ~termios.ICRNL
    attributes[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN)
    attributes[6][termios.VMIN], attributes[6][termios.VTIME] = 1, 0
