"""What a person types: lines with editing keys and history, and silence while an answer comes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from cli.terminal import note

PROMPT = "› "
_CONTINUES = "\\"


def typed_turns(err: Console) -> Iterator[str]:
    """One text a turn, until the end of input or two interrupts in a row; one interrupt drops what was typed.

    A line that ends in a backslash goes on with the next. A paste of several lines stays one text where Python is built with
    GNU readline; editline has no such mode, and each pasted line is a turn.
    """
    # Importing it is what gives `input` editing keys and history.
    import readline

    # A no-op for editline, which reads the line as a command it does not know.
    readline.parse_and_bind("set enable-bracketed-paste on")
    interrupted = False
    while True:
        try:
            turn = _turn()
        except EOFError:
            err.print()
            return
        except KeyboardInterrupt:
            err.print()
            if interrupted:
                return
            interrupted = True
            note(err, "Ctrl-C again, or Ctrl-D, leaves.")
            continue
        interrupted = False
        yield turn


def _turn() -> str:
    text = _line(PROMPT)
    while text.endswith(_CONTINUES):
        text = f"{text.removesuffix(_CONTINUES)}\n{_line('  ')}"
    return text


def _line(prompt: str) -> str:
    if sys.stdout.isatty():
        return input(prompt)
    # `input` would write its prompt among the answers.
    sys.stderr.write(prompt)
    sys.stderr.flush()
    return input()


@contextmanager
def unechoed() -> Iterator[None]:
    """Within, what is typed does not show among the answer; it waits for the next prompt. Needs a terminal on stdin."""
    # Not on every platform, and only where someone types.
    import termios

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    silent = termios.tcgetattr(descriptor)
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
