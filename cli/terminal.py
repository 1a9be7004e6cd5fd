"""The two streams: answers on stdout, everything about them on stderr."""

from __future__ import annotations

import io
import os
import sys

from rich.console import Console

# Escape sequences in a model's text would move the cursor, recolour the screen or retitle the window.
_CONTROLS = {code: 0x2400 + code for code in range(0x20)} | dict.fromkeys(range(0x7F, 0xA0), 0xFFFD)
_VISIBLE = _CONTROLS | {ord("\t"): "\t", ord("\n"): "\n", ord("\r"): None}


def out() -> Console:
    """Stdout, for what a command was asked for."""
    return _console(stderr=False)


def err() -> Console:
    """Stderr, for thoughts, notes, progress and figures."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    # No markup and no highlighting: brackets and numbers in a model's text mean themselves.
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)


def note(console: Console, text: str) -> None:
    """Print a sentence dim: broken between words where a terminal is narrow, in one line elsewhere."""
    console.print(text, style="dim", soft_wrap=not console.is_terminal)


def visible(text: str) -> str:
    """The text with its control characters as symbols; newlines and tabs stay, carriage returns go."""
    return text.translate(_VISIBLE)


def occupy_closed_stdin() -> None:
    """Descriptor 0 is not free for the next file: MLX takes it for a failure to open one."""
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)


def replace_what_cannot_be_encoded() -> None:
    """A character that the terminal's encoding lacks is printed as `?` from now on, instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def stdin_is_open() -> bool:
    """Whether there is any."""
    return sys.stdin is not None


def stdin_is_terminal() -> bool:
    """Whether a person types."""
    return sys.stdin is not None and sys.stdin.isatty()
