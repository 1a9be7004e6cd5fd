"""The program itself, as another process, and a terminal to use it in."""

from __future__ import annotations

import codecs
import os
import pty
import select
import shlex
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Self

from screens import Terminal

ROOT = Path(__file__).parent.parent
PROGRAM = [sys.executable, "-m", "cli"]
# Answers every question with a file, which is its first argument.
SCRIPTED = [sys.executable, "tests/scripted_program.py"]
SCRIPTED_CHAT = ("chat", "--model", "scripted", "--no-save")
PROMPT = "›"
ENTER, CTRL_C, CTRL_D = "\r", "\x03", "\x04"
_TERMINAL = {"TERM": "xterm", "COLUMNS": "80"}
# Variables that tell of the terminal that tests are run in.
_OUTER = (
    "COLUMNS",
    "LINES",
    "NO_COLOR",
    "STY",
    "TERM_PROGRAM",
    "VTE_VERSION",
    "KITTY_WINDOW_ID",
    "ALACRITTY_WINDOW_ID",
    "TMUX",
)
_LONGEST_WAIT_S = 60


def start(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """The program, which runs."""
    return subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def environment() -> dict[str, str]:
    """Of a user who has chosen no model."""
    return {key: value for key, value in {**os.environ, **_TERMINAL}.items() if key != "QNEXT_MODEL"}


class Window:
    """The program in a terminal: what a person sees there, and the keys.

    Whatever is waited for has to come within a minute.

    Args:
        command: what is run, by default the program; the arguments stand behind it.
        variables: of the environment, beside those of a plain terminal.

    Attributes:
        terminal: the screen, and what scrolled off it, as far as was waited for.
    """

    def __init__(
        self,
        *arguments: str,
        command: Sequence[str] = PROGRAM,
        columns: int = 80,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._controller, inner = pty.openpty()
        self.terminal = Terminal(columns, reply=self.press)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        termios.tcsetwinsize(inner, self.terminal.size[::-1])
        self._modes = termios.tcgetattr(inner)
        plain = {key: value for key, value in environment().items() if key not in _OUTER}
        self.running = subprocess.Popen(
            [*command, *arguments],
            cwd=ROOT,
            env={**plain, "PYTHONPATH": str(ROOT), **(variables or {})},
            stdin=inner,
            stdout=inner,
            stderr=inner,
            # Ctrl-C becomes a signal only for a program whose controlling terminal this is.
            preexec_fn=partial(os.login_tty, inner),
        )
        os.close(inner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.running.kill()
        self.running.wait()
        self.close()

    def close(self) -> None:
        """The terminal is gone."""
        if self._controller >= 0:
            os.close(self._controller)
        self._controller = -1

    def press(self, keys: str) -> None:
        """Send these keys."""
        os.write(self._controller, keys.encode())

    def rows(self) -> list[str]:
        """All that stands there, from the first row that ever was."""
        return self.terminal.rows()

    def text(self) -> str:
        """The same, as one."""
        return "\n".join(self.rows())

    def cursor_row(self) -> str:
        """The row where the cursor is."""
        return self.terminal.row

    def type(self, text: str) -> None:
        """Type this at the prompt, and wait until it stands there."""
        self.press(text)
        # Wherever it is broken into rows.
        self.until(lambda: "".join(self.text().split()).endswith("".join(text.split())))

    def ask(self, question: str) -> None:
        """Type it, and send it."""
        self.type(question)
        self.press(ENTER)

    def resize(self, columns: int) -> None:
        """The terminal is so wide from now on; the program is told."""
        self.terminal.resize(columns, self.terminal.size[1])
        termios.tcsetwinsize(self._controller, self.terminal.size[::-1])

    def until(self, shows: Callable[[], object] | str) -> None:
        """Look until this text stands somewhere, or this is so."""
        found = shows if callable(shows) else lambda: shows in self.text()
        deadline = monotonic() + _LONGEST_WAIT_S
        while not found():
            assert self._look(deadline), f"The program has ended:\n{self.text()}"

    def until_prompt(self) -> None:
        """Look until a question can be typed."""
        self.until(lambda: self.cursor_row() == PROMPT)

    def left(self) -> int:
        """Look until the program has ended, and give its exit code; the terminal is as it was before."""
        deadline = monotonic() + _LONGEST_WAIT_S
        while self._look(deadline):
            pass
        code = self.running.wait()
        assert termios.tcgetattr(self._controller) == self._modes
        assert self.terminal.is_as_shells_have_it
        return code

    def _look(self, deadline: float) -> bool:
        """Show what was written next; `False` where that is the end."""
        ready, _, _ = select.select([self._controller], [], [], max(0.0, deadline - monotonic()))
        assert ready, f"Waited too long:\n{self.text()}"
        try:
            read = os.read(self._controller, 4096)
        except OSError:  # what Linux says where nobody has the terminal open any more
            read = b""
        self.terminal.write(self._decoder.decode(read))
        return bool(read)


class Tmux(Window):
    """The program in tmux, which breaks lines anew when it is resized, as most terminals do."""

    def __init__(self, *arguments: str, command: Sequence[str] = PROGRAM) -> None:
        self._folder = TemporaryDirectory()
        self._tmux = ["tmux", "-S", f"{self._folder.name}/socket", "-f", os.devnull]
        super().__init__(shlex.join([*command, *arguments]), command=[*self._tmux, "new-session"])

    def __exit__(self, *error: object) -> None:
        self._do("kill-server")
        super().__exit__(*error)
        self._folder.cleanup()

    def rows(self) -> list[str]:
        """As it was written: tmux knows where it broke a line."""
        return [row.rstrip() for row in self._do("capture-pane", "-p", "-J", "-S", "-").rstrip().split("\n")]

    def cursor_row(self) -> str:
        """The last one."""
        return self.rows()[-1]

    def _do(self, *what: str) -> str:
        return subprocess.run([*self._tmux, *what], capture_output=True, text=True).stdout
