"""Turns that are typed at a terminal: what ends them, what is kept of what is typed meanwhile, what becomes of the terminal."""

from __future__ import annotations

import errno
import os
import pty
import re
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from io import StringIO
from pathlib import Path
from typing import TextIO

import pytest
from rich.console import Console

from cli.input_history import InputHistory
from cli.keyboard import typed_turns

HINT = "Ctrl-C again, or Ctrl-D, leaves."


class Keyboard:
    """A pseudo-terminal, and the one who types there.

    Attributes:
        stdout, stderr: of the program, which is this process. history: what was typed before. meanwhile: called while a turn
            lasts.
    """

    def __init__(self, controller: int, keys: TextIO, inner: TextIO) -> None:
        self._controller, self._keys, self._inner = controller, keys, inner
        # Nobody would get the signals: it controls no process.
        modes = termios.tcgetattr(inner)
        modes[3] &= ~termios.ISIG
        termios.tcsetattr(inner, termios.TCSANOW, modes)
        self._before = termios.tcgetattr(inner)
        self.stdout: TextIO = inner
        self.stderr: TextIO = inner
        self.history = InputHistory()
        self.meanwhile: Callable[[], object] = lambda: None

    def press(self, keys: str) -> None:
        os.write(self._controller, keys.encode())

    def turns(self, *presses: str) -> list[str]:
        """All turns, while these keys are pressed: the first ones before there is a prompt, the others while a turn lasts."""
        first, *others = presses
        waiting, turns = iter(others), []
        self.press(first)
        with (
            pytest.MonkeyPatch.context() as patched,
            closing(typed_turns(Console(file=self.stderr, width=80), self.history)) as typed,
        ):
            for name, stream in {"stdin": self._keys, "stdout": self.stdout, "stderr": self.stderr}.items():
                patched.setattr(sys, name, stream)
            for turn in typed:
                turns.append(turn)
                assert not termios.tcgetattr(self._inner)[3] & termios.ECHO
                self.press(next(waiting, ""))
                self.meanwhile()
        return turns

    @property
    def is_as_before(self) -> bool:
        return termios.tcgetattr(self._inner) == self._before

    def hang_up(self) -> None:
        # Another file has the number, and is closed at the end as the terminal was to be.
        other = os.open(os.devnull, os.O_RDWR)
        os.dup2(other, self._controller)
        os.close(other)

    def shown(self) -> str:
        """All that was written there until now."""
        self._inner.write("\0")
        self._inner.flush()
        shown = b""
        while not shown.endswith(b"\0"):
            shown += os.read(self._controller, 4096)
        return shown.decode().removesuffix("\0").replace("\r\n", "\n")


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Keyboard]:
    monkeypatch.setenv("QNEXT_HISTORY", str(tmp_path / "history.jsonl"))
    monkeypatch.setenv("TERM", "xterm")
    controller, inner = pty.openpty()
    with (
        # What a terminal that went away was not shown.
        suppress(OSError),
        open(inner, encoding="utf-8", closefd=False) as keys,
        open(inner, "w", encoding="utf-8", closefd=False) as screen,
    ):
        yield Keyboard(controller, keys, screen)
    os.close(inner)
    os.close(controller)


@pytest.fixture(params=["xterm", "dumb"])
def either(request: pytest.FixtureRequest, keyboard: Keyboard, monkeypatch: pytest.MonkeyPatch) -> Keyboard:
    """A terminal that can show an editor, or one that cannot."""
    monkeypatch.setenv("TERM", request.param)
    return keyboard


def test_turns_are_typed_ahead_and_go_on_until_the_end(either: Keyboard) -> None:
    presses = ["one\n", "two\rthr", "ee\r", '"""\rfour\\\rfive"""\r', "six\\\rseven\r", "\x04"]
    assert either.turns(*presses) == ["one", "two", "three", "\nfour\\\nfive", "six\nseven"]
    assert either.is_as_before


def test_a_paste_while_a_turn_lasts_is_one_text_however_long(keyboard: Keyboard) -> None:
    text = "\n".join(["a long line of it"] * 400)
    assert keyboard.turns("one\n", f"\x1b[200~{text}\x1b[201~\r", "\x04") == ["one", text]


@pytest.mark.parametrize(
    ("keys", "turns", "hints"),
    [
        ("\x03\x03", [], 1),
        ("one\x03\x03", [], 1),
        ("one\x03\x04", [], 1),
        # It drops a text first, and whoever typed that did not want to leave.
        ("\x03one\x03two\r\x04", ["two"], 2),
        ("\x03one\r\x03two\r\x04", ["one", "two"], 2),
    ],
)
def test_two_interrupts_in_a_row_leave(keys: str, turns: list[str], hints: int, keyboard: Keyboard) -> None:
    assert keyboard.turns("first\n", keys) == ["first", *turns]
    assert keyboard.shown().count(HINT) == hints


def test_pastes_are_marked_until_the_end(keyboard: Keyboard) -> None:
    seen = []
    keyboard.meanwhile = lambda: seen.append(keyboard.shown())
    keyboard.turns("one\n", "two\r", "\x04")
    assert [re.findall(r"\x1b\[\?2004([hl])", shown)[-1] for shown in [*seen, keyboard.shown()]] == [
        "h",
        "h",
        "l",
    ]


def test_a_terminal_that_goes_away_is_the_end(keyboard: Keyboard) -> None:
    keyboard.meanwhile = keyboard.hang_up
    assert keyboard.turns("one\n") == ["one"]


def test_a_terminal_that_cannot_be_read_any_more_is_the_end(
    keyboard: Keyboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(errno.EIO, "gone")

    def go() -> None:
        monkeypatch.setattr(os, "read", refuse)
        monkeypatch.setattr(os, "isatty", lambda _: False)

    keyboard.meanwhile = go
    assert keyboard.turns("one\n", "two\r") == ["one"]


def test_a_terminal_that_can_only_write_is_written_prompts(
    keyboard: Keyboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert keyboard.turns("one\\\ntwo\n", "\x04") == ["one\ntwo"]
    assert keyboard.shown() == "one\\\ntwo\n› … › \n"


def test_where_nothing_can_be_shown_lines_are_read_all_the_same(keyboard: Keyboard) -> None:
    elsewhere = keyboard.stdout = keyboard.stderr = StringIO()
    assert keyboard.turns("one\n", "two\n", "\x04") == ["one", "two"]
    assert elsewhere.getvalue() == ""


def test_among_the_answers_a_prompt_is_shown_only_where_no_other_place_is(keyboard: Keyboard) -> None:
    answers = keyboard.stdout = StringIO()
    assert keyboard.turns("one\n", "\x04") == ["one"]
    assert answers.getvalue() == ""
    assert "› one" in keyboard.shown()
    keyboard.stdout, keyboard.stderr = keyboard.stderr, StringIO()
    assert keyboard.turns("one\n", "\x04") == ["one"]
    assert "› one" in keyboard.shown()


def test_that_nothing_is_remembered_is_said_once(
    keyboard: Keyboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QNEXT_HISTORY", str(tmp_path))
    keyboard.history = InputHistory()
    assert keyboard.turns("one\n", "two\r", "\x04") == ["one", "two"]
    assert keyboard.shown().count("What you type is not remembered") == 1
