"""The program itself, as another process, and what it shows on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAM = [sys.executable, "-m", "cli"]
_TERMINAL = {"TERM": "xterm", "COLUMNS": "80"}


def start(
    *arguments: str,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    preexec_fn: Callable[[], object] | None = None,
) -> subprocess.Popen[bytes]:
    """The program, which runs."""
    return subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=ROOT,
        env=environment(),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        preexec_fn=preexec_fn,
    )


def environment() -> dict[str, str]:
    """Of a user who has chosen no model."""
    return {key: value for key, value in {**os.environ, **_TERMINAL}.items() if key != "QNEXT_MODEL"}


def start_in_terminal(*arguments: str) -> tuple[subprocess.Popen[bytes], int]:
    """The program in a pseudo-terminal of its own, and the descriptor that types into it."""
    controller, terminal = pty.openpty()
    # Ctrl-C becomes a signal only for a program whose controlling terminal this is.
    running = start(
        *arguments,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        preexec_fn=partial(os.login_tty, terminal),
    )
    os.close(terminal)
    return running, controller


class Screen:
    """What a pseudo-terminal has shown and nobody has looked at yet."""

    def __init__(self, controller: int) -> None:
        self._controller, self._seen = controller, b""

    def until(self, text: str) -> bytes:
        """What came before `text`, which is looked at and gone."""
        while text.encode() not in self._seen:
            self._seen += os.read(self._controller, 4096)
        before, _, self._seen = self._seen.partition(text.encode())
        return before
