"""While the user types, the session reads on: it is never in the way, and nothing of it is seen."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from fakes.engine import ScriptedSession

from cli.main import main
from cli.reading_ahead import reading_ahead
from mlx_qnext import Engine, Session
from mlx_qnext.errors import CheckpointError
from mlx_qnext.generate.events import Event
from mlx_qnext.generate.request import GenerationConfig


def typing(monkeypatch: pytest.MonkeyPatch, engine: object, turns: Iterator[str], *options: str) -> object:
    """What `qnext chat` exits with when these turns are typed in a terminal."""
    monkeypatch.setattr("cli.terminal.stdin_is_terminal", lambda: True)
    monkeypatch.setattr("cli.chat.typed_turns", lambda *_: (turn for turn in turns))
    monkeypatch.setattr("cli.chat.load_engine", lambda *arguments: engine)
    monkeypatch.setattr(sys, "argv", ["qnext", "chat", "--no-save", *options])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code


class _Reading(ScriptedSession):
    """Reads ahead until it is told to stop, and answers only where nobody does."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = threading.Lock()
        self.read: list[Sequence[Any]] = []

    def session(self) -> _Reading:
        return self

    def read_ahead(
        self, messages: Sequence[Any], *, thinking: bool | None, cancelled: threading.Event
    ) -> int:
        with self.reading:
            self.read.append(messages)
            cancelled.wait()
            return self.after_reading()

    def after_reading(self) -> int:
        return 0

    def generate(self, messages: Sequence[Any], config: GenerationConfig) -> Iterator[Event]:
        assert not self.reading.locked()
        return super().generate(messages, config)


def test_every_turn_ends_it_and_no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    session, before = _Reading(), threading.active_count()
    turns = iter(["one?", "/retry", "/undo", "/clear", "/nonsense", "", "two?", "/quit", "never typed"])
    assert typing(monkeypatch, session, turns) == 0
    assert threading.active_count() == before
    assert len(session.asked) == 3
    # Before each turn, from what had been said by then.
    assert [len(messages) for messages in session.read] == [0, 2, 2, 0, 0, 0, 0, 2]
    assert next(turns) == "never typed"


def test_the_end_of_input_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    session, before = _Reading(), threading.active_count()
    assert typing(monkeypatch, session, iter([])) == 0
    assert (len(session.read), threading.active_count()) == (1, before)


def test_an_interrupt_at_the_prompt_stops_it_and_is_raised_as_ever() -> None:
    session, handler = _Reading(), signal.getsignal(signal.SIGINT)
    with reading_ahead(session, [], None):  # pyright: ignore[reportArgumentType]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with session.reading:
            assert len(session.read) == 1
    assert signal.getsignal(signal.SIGINT) is handler


class _Interrupting(_Reading):
    """Interrupted from the keyboard while its last pass ends."""

    def after_reading(self) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return 0


def test_an_interrupt_while_it_ends_waits_for_that() -> None:
    session, before = _Interrupting(), threading.active_count()
    with pytest.raises(KeyboardInterrupt), reading_ahead(session, [], None):  # pyright: ignore[reportArgumentType]
        pass
    assert threading.active_count() == before


class _Failing(_Reading):
    def after_reading(self) -> int:
        raise CheckpointError("The disk is away.")


def test_what_fails_in_it_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typing(monkeypatch, _Failing(), iter(["one?"])) == 0
    shown = capsys.readouterr()
    assert "away" not in shown.err
    assert "Traceback" not in shown.err


def test_the_next_turn_reads_less_and_answers_the_same(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def turns() -> Iterator[str]:
        """Typed slowly: what can be read ahead is read."""
        for text in ("What is 1 + 2?", "And plus 10?"):
            for thread in threading.enumerate():
                if thread.name == "reading ahead":
                    thread.join()
            yield text

    typing(monkeypatch, engine, turns(), "--temp", "0", "--json")
    ahead = capsys.readouterr()
    monkeypatch.setattr(Session, "read_ahead", lambda *arguments, **named: 0)
    typing(monkeypatch, engine, turns(), "--temp", "0", "--json")
    plain = capsys.readouterr()
    assert ahead.err == plain.err
    (_, read), (_, unread) = (map(_cached_and_text, shown.out.splitlines()) for shown in (ahead, plain))
    assert read[1] == unread[1]
    assert read[0] > unread[0]


def _cached_and_text(line: str) -> tuple[int, str]:
    result = json.loads(line)
    return result["usage"]["cached_tokens"], result["text"] + result["thinking"]
