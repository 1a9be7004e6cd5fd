"""A terminal that tests can look at: the screen, and what has scrolled off it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import pyte
from pyte.screens import Char
from rich.console import Console

# As pyte numbers the private modes of DEC.
_CURSOR_IS_SHOWN, _PASTES_ARE_BRACKETED = 25 << 5, 2004 << 5


class Terminal:
    """An emulated terminal as the file of a console. It cuts lines off when it becomes narrower, as the simplest ones do.

    Args:
        reply: is given what it answers, where it is asked for its cursor.

    Attributes:
        written: all that was sent to it.
    """

    encoding = "utf-8"

    def __init__(self, columns: int, lines: int = 24, reply: Callable[[str], object] | None = None) -> None:
        self.written = ""
        self._screen = pyte.HistoryScreen(columns, lines, history=100_000, ratio=0.5)
        if reply is not None:
            self._screen.write_process_input = reply
        self._stream = pyte.Stream(self._screen)

    def write(self, text: str) -> int:
        self.written += text
        # The emulator drops what follows a joiner.
        self._stream.feed(text.replace("\n", "\r\n").replace("\u200d", ""))
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True

    def console(self, *, color: bool = True, **options: Any) -> Console:
        """A console on it, as the program makes them."""
        settings = {
            "force_terminal": True,
            "color_system": "standard",
            "no_color": not color,
            "markup": False,
            "highlight": False,
            "emoji": False,
            "soft_wrap": True,
            "legacy_windows": False,
            "_environ": {"TERM": "xterm"},
        }
        console = Console(file=self, **(settings | options))  # pyright: ignore[reportArgumentType]
        self._fit(console)
        return console

    def resize(self, columns: int, lines: int, *consoles: Console) -> None:
        self._screen.resize(lines, columns)
        for console in consoles:
            self._fit(console)

    @property
    def size(self) -> tuple[int, int]:
        return self._screen.columns, self._screen.lines

    def _fit(self, console: Console) -> None:
        console.size = self.size  # pyright: ignore[reportAttributeAccessIssue]

    def rows(self) -> list[str]:
        """All rows from the first that ever was, without the empty ones at the end."""
        rows = ["".join(char.data for char in line).rstrip() for line in self._lines()]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def _lines(self) -> Iterator[list[Char]]:
        for line in (*self._screen.history.top, *(self._screen.buffer[y] for y in range(self._screen.lines))):
            yield [line[x] for x in range(self._screen.columns)]

    def runs(self, look: Callable[[Char], object]) -> list[tuple[object, str]]:
        """What is written there, in pieces that look alike; nothing of what looks plain, as spaces do that nobody wrote."""
        chars = (char for line in self._lines() for char in line)
        runs = [(seen, "".join(char.data for char in run)) for seen, run in groupby(chars, look)]
        return [run for run in runs if run[0] != look(self._screen.default_char)]

    def text(self) -> str:
        return "\n".join(self.rows()) + "\n"

    @property
    def column(self) -> int:
        """Where the cursor stands."""
        return self._screen.cursor.x

    @property
    def row(self) -> str:
        """Where the cursor stands."""
        line = self._screen.buffer[self._screen.cursor.y]
        return "".join(line[x].data for x in range(self._screen.columns)).rstrip()

    @property
    def is_as_shells_have_it(self) -> bool:
        """Whether the cursor shows, and what is pasted comes as if it were typed."""
        return _CURSOR_IS_SHOWN in self._screen.mode and _PASTES_ARE_BRACKETED not in self._screen.mode


def cut(text: str, sizes: Sequence[int]) -> Iterator[str]:
    """The text in pieces of these sizes, which are repeated as needed."""
    at = 0
    while at < len(text):
        for size in sizes:
            yield text[at : at + size]
            at += size


def plain(lines: Iterable) -> list[str]:
    return ["".join(segment.text for segment in line) for line in lines]
