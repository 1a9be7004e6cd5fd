"""What a person types: lines with editing keys and history, and silence while an answer comes."""

from __future__ import annotations

import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from cli.terminal import note

PROMPT = "› "
_CONTINUATION = "  "
_CONTINUES = "\\"


def typed_turns(err: Console) -> Iterator[str]:
    """One text a turn, until the end of input or two interrupts in a row; an interrupt drops what was typed.

    A paste of several lines is one text, and a line that ends in a backslash goes on with the next.
    """
    # Importing it is what gives `input` editing keys and history.
    import readline

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
    while True:
        if text.endswith(_CONTINUES):
            text = f"{text.removesuffix(_CONTINUES)}\n{_line(_CONTINUATION)}"
        elif _more_was_pasted():
            text = f"{text}\n{_line(_CONTINUATION)}"
        else:
            return text


def _line(prompt: str) -> str:
    if sys.stdout.isatty():
        return input(prompt)
    # `input` would write its prompt among the answers.
    sys.stderr.write(prompt)
    sys.stderr.flush()
    return input()


def _more_was_pasted() -> bool:
    """Whether another line is there already; only editline, which cannot tell pasted lines from typed ones, needs it."""
    import readline

    return "libedit" in (readline.__doc__ or "") and bool(select.select([sys.stdin], [], [], 0)[0])


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
