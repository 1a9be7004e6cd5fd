"""A terminal in which the program runs, and which remembers what each of its rows has shown."""

from __future__ import annotations

import math
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import pyte
from pyte.screens import Char
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).parent.parent.parent
COLUMNS, LINES = 88, 50
PROMPT = "›"
CTRL_D = b"\x04"
# What would make the program behave as it does for whoever records it.
PERSONAL = {"COLUMNS", "LINES", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "QNEXT_MODEL"}

KEY_S = 0.05
QUIET_S = 0.5
PATIENCE_S = 120
# Nobody wants to watch the model being loaded; and a row that is written in two pieces is shown once.
LONGEST_PAUSE_S = 1.0
SHORTEST_S = 0.04

DIM = "2"
EXTENDED_COLOUR = re.compile(r"[34]8;(5;\d+|2;\d+;\d+;\d+)")
HEX_COLOUR = re.compile(r"[0-9a-f]{6}")


@dataclass(frozen=True)
class Version:
    """What a row shows for some time, in seconds from the beginning; without an end, it stays."""

    row: int
    text: Text
    since_s: float
    until_s: float | None


def recorded(command: str, lines: Sequence[str]) -> list[Version]:
    """All that is seen while the command runs and these lines are typed and answered.

    Raises:
        TimeoutError: the program does something else, or has left.
    """
    with tempfile.TemporaryDirectory() as folder:
        terminal = Terminal(command, Path(folder))
        terminal.until_prompt()
        for line in lines:
            terminal.type(line)
        versions = terminal.versions()
        terminal.close()
    return versions


class Terminal(pyte.Screen):
    """Runs the program, which keeps its files in the folder."""

    def __init__(self, command: str, folder: Path) -> None:
        super().__init__(COLUMNS, LINES)
        self._rows: list[list[tuple[float, Text]]] = [[] for _ in range(LINES)]
        self._now_s, self._looked_s = 0.0, time.monotonic()
        self._stream = pyte.ByteStream(self)
        self._controller, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (LINES, COLUMNS))
        self._show(f"$ qnext {command}\r\n".encode())
        self._program = subprocess.Popen(
            [sys.executable, "-m", "cli", *command.split()],
            cwd=ROOT,
            env=_environment(folder),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            preexec_fn=partial(os.login_tty, terminal),
        )
        os.close(terminal)

    def type(self, line: str) -> None:
        """A line is typed, and answered."""
        for key in line:
            os.write(self._controller, key.encode())
            time.sleep(KEY_S)
            self._read(0)
        self._until(f"{PROMPT} {line}")
        os.write(self._controller, b"\r")
        self.until_prompt()

    def until_prompt(self) -> None:
        """The program waits for a line."""
        self._until(PROMPT)

    def versions(self) -> list[Version]:
        """All that was shown, without what nobody could see."""
        return [version for row, shown in enumerate(self._rows) for version in _versions(row, shown)]

    def close(self) -> None:
        """The program has left."""
        os.write(self._controller, CTRL_D)
        # It may still have something to say, and nobody else reads it.
        while self._program.poll() is None:
            self._read(QUIET_S)
        os.close(self._controller)

    def _until(self, line: str) -> None:
        """The line with the cursor is this one, and nothing more comes."""
        deadline_s = time.monotonic() + PATIENCE_S
        while self._read(QUIET_S) or self.display[self.cursor.y].rstrip() != line:
            if self._program.poll() is not None or time.monotonic() > deadline_s:
                raise TimeoutError(
                    f"Expected {line!r}; the screen shows:\n" + "\n".join(self.display).rstrip()
                )

    def _read(self, timeout_s: float) -> bool:
        """Whether something came."""
        if not select.select([self._controller], [], [], timeout_s)[0]:
            return False
        try:
            written = os.read(self._controller, 65536)
        except OSError:  # Linux says so that the program has left
            return False
        self._show(written)
        return True

    def _show(self, written: bytes) -> None:
        looked_s = time.monotonic()
        self._now_s += min(looked_s - self._looked_s, LONGEST_PAUSE_S)
        self._looked_s = looked_s
        self._stream.feed(written)
        for row in self.dirty:
            text = self._text(row)
            if not self._rows[row] or self._rows[row][-1][1] != text:
                self._rows[row].append((self._now_s, text))
        self.dirty.clear()

    def _text(self, row: int) -> Text:
        cells = (self.buffer[row][column] for column in range(self.columns))
        text = Text.assemble(
            *(("".join(cell.data for cell in alike), style) for style, alike in groupby(cells, _style))
        )
        text.rstrip()
        return text

    def select_graphic_rendition(self, *attrs: int) -> None:
        """The emulator does not know dim; nothing blinks, so blinking stands for it."""
        super().select_graphic_rendition(*attrs)
        if DIM in EXTENDED_COLOUR.sub("", ";".join(map(str, attrs))).split(";"):
            self.cursor.attrs = self.cursor.attrs._replace(blink=True)

    def write_process_input(self, data: str) -> None:
        """Where the cursor is, when the program asks."""
        os.write(self._controller, data.encode())


def _versions(row: int, shown: Sequence[tuple[float, Text]]) -> Iterator[Version]:
    ends_s = [since_s for since_s, _ in shown[1:]]
    seen = [each for each, end_s in zip(shown, [*ends_s, math.inf]) if end_s - each[0] >= SHORTEST_S]
    for (since_s, text), until_s in zip(seen, [*(since_s for since_s, _ in seen[1:]), None]):
        if text:
            yield Version(row, text, since_s, until_s)


def _environment(folder: Path) -> dict[str, str]:
    """Of a user who has set nothing up."""
    kept = {name: value for name, value in os.environ.items() if name not in PERSONAL}
    names = ("QNEXT_CACHE", "QNEXT_SESSIONS", "QNEXT_CONFIG", "QNEXT_HISTORY")
    return kept | {name: str(folder / name) for name in names} | {"TERM": "xterm"}


def _style(cell: Char) -> Style:
    return Style(
        color=_colour(cell.fg),
        bgcolor=_colour(cell.bg),
        bold=cell.bold,
        dim=cell.blink,
        italic=cell.italics,
        underline=cell.underscore,
        strike=cell.strikethrough,
        reverse=cell.reverse,
    )


def _colour(name: str) -> str:
    """Rich's name of one of the emulator's."""
    if HEX_COLOUR.fullmatch(name):
        return f"#{name}"
    return name.replace("brown", "yellow").replace("bright", "bright_")
