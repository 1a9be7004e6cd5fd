"""Chats that are kept: saved at the end, gone on with, listed, shown and deleted."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fakes.engine import ScriptedSession, finished
from piped import stdin_of
from program import PROGRAM, ROOT, Window, environment

from cli.answering import answer
from cli.main import main
from mlx_qnext import Engine
from mlx_qnext.generate.events import Finished
from mlx_qnext.generate.request import GenerationConfig
from mlx_qnext.generate.saved import identity_of
from mlx_qnext.sessions.library import SessionLibrary
from mlx_qnext.sessions.manifest import write_manifest

SUM, MORE = "What is 1 + 2?", "And plus 10?"


@dataclass(frozen=True)
class Shown:
    """What one run printed, and its exit code."""

    code: object
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """Answers of a run with --json."""
        return [json.loads(line) for line in self.out.splitlines()]


Qnext = Callable[..., Shown]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SessionLibrary:
    """An empty one, which the program uses."""
    monkeypatch.setenv("QNEXT_SESSIONS", str(tmp_path / "sessions"))
    return SessionLibrary()


@pytest.fixture
def loaded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Any]]:
    """With what the engine was asked for; it is the embedded model's whatever that was."""
    asked: list[Sequence[Any]] = []

    def load(*arguments: Any) -> Engine:
        asked.append(arguments)
        return engine

    monkeypatch.setattr("cli.chat.load_engine", load)
    return asked


@pytest.fixture
def qnext(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Qnext:
    """Runs the program in this process; `piped` is its stdin, if it is no terminal."""

    def run(*arguments: str, piped: str = "") -> Shown:
        monkeypatch.setattr(sys, "argv", ["qnext", *arguments])
        with stdin_of(piped.encode()), pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        # A sentence is a sentence, wherever a terminal breaks it.
        return Shown(left.value.code, captured.out, " ".join(captured.err.split()))

    return run


@pytest.fixture
def chat(
    qnext: Qnext, library: SessionLibrary, loaded: list[Sequence[Any]], monkeypatch: pytest.MonkeyPatch
) -> Qnext:
    """Types lines into a chat, whose answers are printed as JSON; those `again` after it could not be left."""

    def run(*lines: str, options: Sequence[str] = (), again: Sequence[str] = ()) -> Shown:
        batches = iter([lines, again])
        with monkeypatch.context() as patched:
            patched.setattr("cli.terminal.stdin_is_terminal", lambda: True)
            patched.setattr("cli.chat.typed_turns", lambda *_: (line for line in next(batches)))
            return qnext("chat", "--temp", "0", "--json", *options)

    return run


def brief(*options: str) -> list[str]:
    """Where it does not matter what is answered."""
    return ["--max-tokens", "2", *options]


class TestSaving:
    def test_what_was_said_is_saved_at_the_end_and_gone_on_with(
        self, chat: Qnext, library: SessionLibrary
    ) -> None:
        undisturbed = chat(SUM, MORE, options=["--no-save"]).records
        assert library.list() == []
        first = chat(SUM)
        (info,) = library.list()
        assert f"Saved as {info.name} (1 turn, " in first.err
        second = chat(MORE, options=["--resume"])
        assert f"Going on with {info.name}: 1 turn, " in second.err
        assert second.records[0]["text"] == undisturbed[1]["text"]
        assert second.records[0]["usage"]["cached_tokens"] >= undisturbed[1]["usage"]["cached_tokens"] > 0
        assert [(each.name, each.turns) for each in library.list()] == [(info.name, 2)]
        roles = [message["role"] for message in library.read(info.name).messages]
        assert roles == ["user", "assistant"] * 2
        assert library.read(info.name).messages[1]["reasoning_content"]

    def test_nothing_is_written_where_nothing_was_said(self, chat: Qnext, library: SessionLibrary) -> None:
        assert "Saved" not in chat("/help", "/system Be brief.").err
        assert library.list() == []
        chat("hi", options=brief())
        before = (library.folder / library.list()[0].name / "session.json").stat()
        assert "Saved" not in chat("/think show", options=["--resume"]).err
        assert (library.folder / library.list()[0].name / "session.json").stat() == before

    def test_save_names_it_and_the_end_saves_what_came_after(
        self, chat: Qnext, library: SessionLibrary
    ) -> None:
        shown = chat("/save", "hi", "/save my notes", "/save my notes", "ho", options=brief())
        assert "nothing to save" in shown.err
        assert shown.err.count("Saved as my notes (1 turn, ") == 2
        assert shown.err.count("Saved as my notes (2 turns, ") == 1
        assert [info.name for info in library.list()] == ["my notes"]

    def test_another_conversations_name_is_not_taken(self, chat: Qnext, library: SessionLibrary) -> None:
        chat("hi", "/save notes", options=brief())
        shown = chat("ho", "/save notes", "/save ../x", options=brief("--no-save"))
        assert "is there already" in shown.err
        assert "cannot be called" in shown.err
        assert shown.code == 0
        assert library.read("notes").messages[0]["content"] == "hi"

    def test_clear_begins_another_and_leaves_what_was_saved(
        self, chat: Qnext, library: SessionLibrary
    ) -> None:
        chat("hi", "/save notes", "/clear", "ho", options=brief())
        first = {info.name: info.title for info in library.list()}
        assert first.pop("notes") == "hi"
        assert list(first.values()) == ["ho"]

    def test_load_saves_what_was_said_before(self, chat: Qnext, library: SessionLibrary) -> None:
        chat("hi", "/save notes", options=brief())
        shown = chat("ho", "/load nots", "/load notes", "/load notes", "/sessions", "/undo", options=brief())
        assert "There is no session nots" in shown.err
        assert shown.err.count("Going on with notes: 1 turn") == 2
        assert "Forgotten, with its answer: hi" in shown.err
        assert sorted(info.title for info in library.list()) == ["hi", "ho"]

    def test_a_disk_that_refuses_is_one_sentence_and_a_second_chance(
        self, chat: Qnext, library: SessionLibrary, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr("mlx_qnext.sessions.opened.write_manifest", full)
        shown = chat("hi", "/save notes", options=brief(), again=["ho"])
        assert shown.code == 10
        assert len(shown.records) == 2
        assert shown.err.count("The disk is full") == 3
        assert shown.err.count("still here") == 1
        assert library.list() == []
        monkeypatch.setattr("mlx_qnext.sessions.opened.write_manifest", write_manifest)
        assert chat("hi", options=brief()).code == 0
        assert len(library.list()) == 1

    def test_an_interrupt_that_ends_the_program_saves_what_was_answered(
        self, chat: Qnext, library: SessionLibrary, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def twice(*arguments: Any) -> Finished:
            if "ho" in str(arguments[1]):
                raise KeyboardInterrupt
            return answer(*arguments)

        monkeypatch.setattr("cli.talk.answer", twice)
        assert chat("hi", "ho", "never asked", options=brief()).code == 130
        assert [info.turns for info in library.list()] == [1]


class TestResuming:
    @pytest.fixture
    def saved(self, chat: Qnext) -> None:
        """One turn, under the name of notes."""
        chat(SUM, "/save notes", options=brief())

    @pytest.mark.usefixtures("saved")
    def test_model_and_options_are_those_it_was_saved_with_unless_others_are_named(
        self, chat: Qnext, loaded: list[Sequence[Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("QNEXT_MODEL", "another")
        chat("/save this", "hi", options=brief("--model", "first", "--context", "4k", "--kv-bits", "8"))
        chat(options=["--resume"])
        chat(options=["--resume", "--model", "third", "--context", "auto"])
        chat(options=["--resume", "notes"])
        seen = [(model, room.context_tokens, room.kv_bits) for model, _, room in loaded[1:]]
        assert seen == [("first", 4096, 8), ("first", 4096, 8), ("third", None, 8), (None, None, None)]

    @pytest.mark.usefixtures("saved")
    @pytest.mark.parametrize("trouble", ["another template", "a damaged file"])
    def test_where_its_cache_does_not_fit_it_is_read_again(
        self,
        trouble: str,
        chat: Qnext,
        library: SessionLibrary,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        fitting = chat(MORE, options=["--resume", "notes", "--no-save", "--max-tokens", "40"])
        if trouble == "another template":
            other = lambda *arguments: replace(identity_of(*arguments), template="other")  # noqa: E731
            monkeypatch.setattr("mlx_qnext.generate.saved.identity_of", other)
        else:
            (cache,) = (library.folder / "notes").glob("cache-*")
            os.truncate(cache, cache.stat().st_size - 1)
        shown = chat(MORE, options=["--resume", "notes", "--max-tokens", "40"])
        assert shown.code == 0
        assert "read again" in shown.err
        assert "Going on" not in shown.err
        assert shown.records[0]["thinking"] == fitting.records[0]["thinking"] != ""
        assert library.read("notes").messages[0]["content"] == SUM
        assert "Going on with notes: 2 turns" in chat(options=["--resume", "notes"]).err

    @pytest.mark.usefixtures("saved")
    def test_two_programs_do_not_have_one_conversation(self, chat: Qnext, library: SessionLibrary) -> None:
        with library.open("notes"):
            shown = chat("hi", options=["--resume", "notes"])
        assert shown.code == 11
        assert "in use" in shown.err
        assert shown.out == ""

    @pytest.mark.parametrize(("name", "code"), [([], 11), (["nowhere"], 11), (["../x"], 2)])
    def test_what_is_not_there_is_said_before_a_model_is_loaded(
        self, name: list[str], code: int, chat: Qnext, loaded: list[Sequence[Any]]
    ) -> None:
        assert chat("hi", options=["--resume", *name]).code == code
        assert loaded == []


class TestPipes:
    def test_nothing_is_written_unless_it_is_asked_for(
        self, qnext: Qnext, library: SessionLibrary, loaded: list[Sequence[Any]]
    ) -> None:
        qnext("chat", *brief(), piped="hi\n")
        assert not library.folder.exists()
        qnext("chat", *brief(), piped="hi\n/save notes\nnot kept\n")
        assert library.read("notes").messages[0]["content"] == "hi"
        assert len(library.read("notes").messages) == 2
        qnext("chat", "--resume", "notes", "--no-save", piped="ho\n")
        assert len(library.read("notes").messages) == 2
        assert "Saved as notes (2 turns" in qnext("chat", "--resume", "notes", piped="ho\n").err
        assert len(loaded) == 4

    def test_what_was_said_before_a_failure_is_kept(
        self, qnext: Qnext, library: SessionLibrary, loaded: list[Sequence[Any]]
    ) -> None:
        qnext("chat", *brief(), piped="hi\n/save notes\n")
        assert qnext("chat", "--resume", piped="ho\n/load nowhere\nnever\n").code == 11
        assert library.list()[0].turns == 2


class TestCommands:
    @pytest.fixture
    def saved(self, library: SessionLibrary, engine: Engine) -> None:
        """One that is sound, and one that was damaged."""
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "1 + 2?"},
            {"role": "assistant", "content": "3", "reasoning_content": "1 and 2\nis 3"},
        ]
        for name in ("notes", "damaged"):
            with library.create(name) as opened:
                opened.save(None, messages, {}, identity_of(engine, "demo"))
        (library.folder / "damaged" / "session.json").write_text("{")

    def test_an_empty_library_says_so(self, qnext: Qnext, library: SessionLibrary) -> None:
        assert qnext("sessions").out == "No conversation is saved.\n"
        assert qnext("sessions", "--json").out == ""

    @pytest.mark.usefixtures("saved")
    def test_they_are_listed_with_what_is_wrong_with_them(self, qnext: Qnext) -> None:
        listed = qnext("sessions").out
        assert "notes" in listed
        assert "damaged: was damaged" in listed
        by_name = {facts["name"]: facts for facts in qnext("sessions", "--json").records}
        sound, damaged = by_name["notes"], by_name["damaged"]
        assert (sound["model"], sound["turns"], sound["title"], sound["problem"]) == (
            "demo",
            1,
            "1 + 2?",
            None,
        )
        assert (damaged["model"], damaged["turns"]) == (None, None)
        assert set(sound) == set(damaged)

    @pytest.mark.usefixtures("saved")
    def test_one_is_shown_as_text(self, qnext: Qnext) -> None:
        assert qnext("sessions", "show", "notes").out == "system: Be brief.\n\n› 1 + 2?\n\n3\n"
        with_thoughts = qnext("sessions", "show", "notes", "--thinking").out
        assert with_thoughts == "system: Be brief.\n\n› 1 + 2?\n\n│ 1 and 2\n│ is 3\n\n3\n"
        assert qnext("sessions", "show", "damaged").code == 11
        assert qnext("sessions", "show", "nowhere").code == 11

    @pytest.mark.usefixtures("saved")
    def test_deleting_asks_first(
        self, qnext: Qnext, library: SessionLibrary, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert qnext("sessions", "delete", "notes").code == 2
        monkeypatch.setattr("cli.terminal.stdin_is_terminal", lambda: True)
        assert "Delete notes?" in qnext("sessions", "delete", "notes", piped="n\n").err
        assert len(library.list()) == 2
        assert qnext("sessions", "delete", "notes", "damaged", piped="y\n").code == 0
        assert library.list() == []

    @pytest.mark.usefixtures("saved")
    def test_nothing_is_deleted_where_a_name_is_wrong_or_one_is_open(
        self, qnext: Qnext, library: SessionLibrary
    ) -> None:
        assert qnext("sessions", "delete", "--yes", "notes", "nots").code == 11
        with library.open("notes"):
            assert qnext("sessions", "delete", "--yes", "notes").code == 11
        assert len(library.list()) == 2


class TestSettings:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[GenerationConfig]:
        """What every question was asked with; none is answered."""
        seen: list[GenerationConfig] = []

        def fake(*arguments: Any) -> Finished:
            seen.append(arguments[2])
            return finished()

        monkeypatch.setattr("cli.talk.answer", fake)
        monkeypatch.setattr("cli.generate.answer", fake)
        monkeypatch.setattr("cli.generate.load_engine", lambda *_: ScriptedEngine())
        return seen

    def test_a_full_context_drops_turns_of_a_chat_and_refuses_a_prompt(
        self, chat: Qnext, qnext: Qnext, asked: list[GenerationConfig]
    ) -> None:
        chat("hi", options=["--no-save"])
        chat("hi", options=["--no-save", "--when-full", "stop"])
        qnext("generate", "hi")
        qnext("generate", "hi", "--when-full", "drop")
        assert [config.when_full for config in asked] == ["drop", "stop", "stop", "drop"]

    def test_a_retry_moves_a_fixed_seed_on(self, chat: Qnext, asked: list[GenerationConfig]) -> None:
        chat("hi", "/retry", "/retry", "ho", options=["--no-save", "--seed", str(2**64 - 1)])
        assert [config.seed for config in asked] == [2**64 - 1, 0, 1, 1]


class ScriptedEngine:
    plan = ScriptedSession.plan

    def session(self) -> ScriptedSession:
        return ScriptedSession()


@pytest.mark.slow
def test_a_terminal_that_is_closed_saves_and_another_process_goes_on(library: SessionLibrary) -> None:
    with Window("chat", "--temp", "0") as window:
        window.until_prompt()
        window.ask(SUM)
        window.until("1 + 2 = 3")
        window.until_prompt()
        window.close()
        window.running.wait()
    (info,) = library.list()
    assert (info.turns, info.trouble) == (1, None)
    resumed = subprocess.run(
        [*PROGRAM, "chat", "--resume", "--json"],
        cwd=ROOT,
        env=environment(),
        input=b"/retry\n",
        capture_output=True,
    )
    assert resumed.returncode == 0
    result = json.loads(resumed.stdout)
    assert result["text"] == "1 + 2 = 3"
    assert result["usage"]["cached_tokens"] >= result["usage"]["prompt_tokens"] - 3
    assert library.list()[0].turns == 1
