"""Records chat.svg and steps.svg from the program itself, in a terminal: python docs/record_chat.py."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import pyte
from pyte.screens import Char
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

FOLDER = Path(__file__).parent
# Of each: the command line, and what is typed then.
RECORDINGS = {
    "chat": (
        "chat --model demo --temp 0 --thinking show",
        ["Multiply 64 by 36", "/think collapse", "Minus 304?"],
    ),
    "steps": ("chat --model demo --temp 0 --thinking show --show-steps --draft 4", ["What is 47 + 85?"]),
}

COLUMNS, LINES = 88, 60
PROMPT = "›"
CTRL_D = b"\x04"
PATIENCE_S = 120
QUIET_S = 0.3
# What would make the program behave as it does for whoever records it.
PERSONAL = {"COLUMNS", "LINES", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "QNEXT_MODEL"}

DIM = "2"
EXTENDED_COLOUR = re.compile(r"[34]8;(5;\d+|2;\d+;\d+;\d+)")
HEX_COLOUR = re.compile(r"[0-9a-f]{6}")

THEME = TerminalTheme(
    (22, 27, 34),
    (214, 220, 228),
    [
        (13, 17, 23),
        (255, 123, 114),
        (126, 211, 135),
        (229, 192, 107),
        (121, 184, 255),
        (210, 168, 255),
        (109, 203, 214),
        (214, 220, 228),
    ],
    [
        (139, 148, 158),
        (255, 161, 152),
        (157, 228, 165),
        (240, 212, 140),
        (158, 203, 255),
        (226, 197, 255),
        (150, 222, 230),
        (255, 255, 255),
    ],
)
# Rich's own format fetches a font from a server whenever the file is looked at.
FORMAT = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
    font: {char_height}px/{line_height}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}}
.{unique_id}-title {{ font: bold 18px system-ui, sans-serif; }}
{styles}
</style>
<defs>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})">
{backgrounds}
<g class="{unique_id}-matrix" xml:space="preserve">
{matrix}
</g>
</g>
</svg>
"""


class Terminal(pyte.Screen):
    """A terminal in which the program runs, and what it shows."""

    def __init__(self, command: str, folder: Path) -> None:
        super().__init__(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self)
        self._controller, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (LINES, COLUMNS))
        self._stream.feed(f"$ qnext {command}\r\n".encode())
        self._program = subprocess.Popen(
            [sys.executable, "-m", "cli", *command.split()],
            cwd=FOLDER.parent,
            env=_environment(folder),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            preexec_fn=partial(os.login_tty, terminal),
        )
        os.close(terminal)

    def type(self, text: str) -> None:
        """A line is typed, and answered."""
        os.write(self._controller, text.encode())
        self._until(f"{PROMPT} {text}")
        os.write(self._controller, b"\r")
        self.until_prompt()

    def until_prompt(self) -> None:
        """The program waits for a line."""
        self._until(PROMPT)

    def close(self) -> None:
        """The program has left."""
        os.write(self._controller, CTRL_D)
        # It may still have something to say, and nobody else reads it.
        while self._program.poll() is None:
            self._read(QUIET_S)
        os.close(self._controller)

    def text(self) -> Text:
        """What it shows, as Rich's text."""
        rows = [self.buffer[y] for y in range(self.lines)]
        lines = [
            Text.assemble(
                *(
                    ("".join(cell.data for cell in cells), style)
                    for style, cells in groupby((row[x] for x in range(self.columns)), _style)
                )
            )
            for row in rows
        ]
        for line in lines:
            line.rstrip()
        while not lines[-1]:
            lines.pop()
        return Text("\n").join(lines)

    def _until(self, line: str) -> None:
        """The line with the cursor is this one, and nothing more comes.

        Raises:
            TimeoutError: the program does something else, or has left.
        """
        deadline = time.monotonic() + PATIENCE_S
        while self._read(QUIET_S) or self.display[self.cursor.y].rstrip() != line:
            if self._program.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"Expected {line!r}; the screen shows:\n{self.text().plain}")

    def _read(self, timeout_s: float) -> bool:
        """Whether something came."""
        if not select.select([self._controller], [], [], timeout_s)[0]:
            return False
        try:
            self._stream.feed(os.read(self._controller, 65536))
        except OSError:  # Linux says so that the program has left
            return False
        return True

    def select_graphic_rendition(self, *attrs: int) -> None:
        """The emulator does not know dim; nothing blinks, so blinking stands for it."""
        super().select_graphic_rendition(*attrs)
        if DIM in EXTENDED_COLOUR.sub("", ";".join(map(str, attrs))).split(";"):
            self.cursor.attrs = self.cursor.attrs._replace(blink=True)

    def write_process_input(self, data: str) -> None:
        """Where the cursor is, when the program asks."""
        os.write(self._controller, data.encode())


def _environment(folder: Path) -> dict[str, str]:
    """Of a user who has set nothing up, and keeps everything in this folder."""
    kept = {name: value for name, value in os.environ.items() if name not in PERSONAL}
    names = ("QNEXT_CACHE", "QNEXT_SESSIONS", "QNEXT_CONFIG")
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


def record(command: str, typed: Sequence[str]) -> Text:
    """The screen after these lines have been typed and answered."""
    with tempfile.TemporaryDirectory() as folder:
        terminal = Terminal(command, Path(folder))
        terminal.until_prompt()
        for line in typed:
            terminal.type(line)
        text = terminal.text()
        terminal.close()
    return text


def picture(text: Text, name: str) -> str:
    """An SVG of it, which needs nothing from elsewhere."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    # Rich leaves the last line without its clip path.
    console.print(text, end="\n\n")
    return console.export_svg(title="qnext chat", theme=THEME, code_format=FORMAT, unique_id=name)


if __name__ == "__main__":
    for name, (command, typed) in RECORDINGS.items():
        (FOLDER / f"{name}.svg").write_text(picture(record(command, typed), name), encoding="utf-8")
