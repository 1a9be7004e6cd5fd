"""`qnext generate` among other programs: what it is asked, and where the answer goes. No model is loaded."""

from __future__ import annotations

import errno
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.engine import SUM, ScriptedSession, answer, finished

from cli.main import main
from mlx_qnext.errors import ContextLengthError
from mlx_qnext.generate.events import Event

Run = Callable[..., tuple[int, str, str]]
FENCED = "{}:\n```\n{}\n```\n\n"


class Engine(ScriptedSession):
    """It is its own session, and counts words as tokens."""

    tokenizer = SimpleNamespace(encode=str.split)

    def session(self) -> Engine:
        return self

    @property
    def question(self) -> str:
        """What it was asked last."""
        return self.asked[-1][-1]["content"]


class Interrupted(Engine):
    def generate(self, messages: Sequence[Any], config: Any) -> Iterator[Event]:
        yield answer("It is")
        signal.raise_signal(signal.SIGINT)
        yield finished("It is", reason="cancelled")


class Crowded(Engine):
    def generate(self, messages: Sequence[Any], config: Any) -> Iterator[Event]:
        raise ContextLengthError("The prompt has 9000 tokens.")


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def qnext(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """The program in this process: its exit code, and what it printed on stdout and stderr."""
    piped = tmp_path_factory.mktemp("piped") / "stdin"

    def run(*arguments: str, stdin: bytes = b"", engine: Engine = engine) -> tuple[int, str, str]:
        monkeypatch.setattr("cli.generate.load_engine", lambda *given: engine)
        monkeypatch.setattr(sys, "argv", ["qnext", "generate", *arguments])
        piped.write_bytes(stdin)
        with piped.open() as opened:
            monkeypatch.setattr(sys, "stdin", opened)
            with pytest.raises(SystemExit) as left:
                main()
        return int(left.value.code or 0), *capsys.readouterr()

    return run


class TestWhatIsAsked:
    def test_what_is_piped_in_comes_before_the_prompt_that_is_about_it(
        self, qnext: Run, engine: Engine
    ) -> None:
        qnext("Summarise", stdin="naïve\ntext\n\n".encode())
        assert engine.question == "naïve\ntext\n\nSummarise"

    @pytest.mark.parametrize("arguments", [[], ["-"]])
    def test_without_a_prompt_what_is_piped_in_is_the_prompt(
        self, arguments: list[str], qnext: Run, engine: Engine
    ) -> None:
        qnext(*arguments, stdin=b"Hello")
        assert engine.question == "Hello"

    @pytest.mark.parametrize("stdin", [b"", b" \n"])
    def test_nothing_that_is_piped_in_adds_nothing(self, stdin: bytes, qnext: Run, engine: Engine) -> None:
        qnext("Hello", stdin=stdin)
        assert engine.question == "Hello"

    def test_files_come_first_each_with_its_name(self, qnext: Run, engine: Engine, tmp_path: Path) -> None:
        for name in ("a.txt", "b.txt"):
            (tmp_path / name).write_text(f"in {name}\n")
        a, b = (str(tmp_path / name) for name in ("a.txt", "b.txt"))
        qnext("Compare", "--file", a, "-f", b, stdin=b"piped")
        told = FENCED.format(a, "in a.txt") + FENCED.format(b, "in b.txt")
        assert engine.question == f"{told}piped\n\nCompare"
        qnext("--file", a, stdin=b"Explain")
        assert engine.question == FENCED.format(a, "in a.txt") + "Explain"

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"a\xff", "not UTF-8 text (byte 1)"),
            ("a".encode("utf-16"), "is UTF-16"),
            (b"a\0b", "not text"),
            (b" ", "is empty"),
        ],
    )
    def test_a_file_that_is_no_text_is_refused_before_anything_is_loaded(
        self, content: bytes, said: str, qnext: Run, engine: Engine, tmp_path: Path
    ) -> None:
        (tmp_path / "a").write_bytes(content)
        code, out, err = qnext("Explain", "--file", str(tmp_path / "a"))
        assert (code, out, engine.asked) == (2, "", [])
        assert said in err
        for path in (str(tmp_path / "none"), "", "x" * 300, "~nobody at all/x"):
            assert qnext("Explain", "--file", path)[0] == 2

    @pytest.mark.parametrize(
        ("stdin", "said"), [("a".encode("utf-16"), "is UTF-16"), (b"a\0b", "is not text (byte 1 is zero)")]
    )
    def test_what_is_piped_in_has_to_be_text_too(
        self, stdin: bytes, said: str, qnext: Run, engine: Engine
    ) -> None:
        code, _, err = qnext("Explain", stdin=stdin)
        assert (code, engine.asked) == (2, [])
        assert f"The text on stdin {said}" in err

    def test_what_never_ends_is_not_read_for_ever(self, qnext: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("asked", "piped"):
            monkeypatch.setattr(f"cli.{module}.MOST_BYTES", 1000)
        assert "more than what is left" in qnext("Explain", "--file", "/dev/zero")[2]
        assert "which no context holds" in qnext("Explain", stdin=b"y\n" * 501)[2]
        assert qnext("Explain", stdin=b"y\n" * 500)[0] == 0

    def test_a_pipe_that_stays_open_is_said_to_be_awaited(
        self, qnext: Run, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "Waiting" not in qnext("Explain", stdin=b"it")[2]
        monkeypatch.setattr("cli.piped.select.select", lambda *waited: ([], [], []))
        assert "Waiting for the end of stdin" in qnext("Explain", stdin=b"it")[2]
        assert engine.question == "it\n\nExplain"

    def test_texts_that_find_no_room_are_told_with_their_lengths(self, qnext: Run, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("word " * 8000)
        code, out, err = qnext("Explain", "--file", str(tmp_path / "a"), stdin=b"one two", engine=Crowded())
        assert (code, out) == (7, "")
        assert f"The context holds 8,192 tokens, and {tmp_path / 'a'} has 8,003, stdin has 2:" in err
        assert "The prompt has 9000" in qnext("Explain", engine=Crowded())[2]


class TestWhereTheAnswerGoes:
    def test_into_the_file_and_not_to_stdout(self, qnext: Run, tmp_path: Path) -> None:
        file = tmp_path / "answer.txt"
        file.write_text("old")
        code, out, err = qnext("Add", "--output", str(file))
        assert (code, out) == (0, "")
        assert file.read_text() == "It is 132.\n"
        assert "carry 1" in err
        assert [path.name for path in tmp_path.iterdir()] == ["answer.txt"]

    def test_as_json_too(self, qnext: Run, tmp_path: Path) -> None:
        assert qnext("Add", "--json", "-o", str(tmp_path / "a.json"))[:2] == (0, "")
        assert json.loads((tmp_path / "a.json").read_text())["text"] == "It is 132."

    def test_one_that_is_broken_off_leaves_the_file_and_is_printed(self, qnext: Run, tmp_path: Path) -> None:
        file = tmp_path / "answer.txt"
        file.write_text("old")
        code, out, err = qnext("Add", "--output", str(file), engine=Interrupted())
        assert (code, out) == (130, "It is\n")
        assert file.read_text() == "old"
        assert "as it was" in err

    @pytest.mark.parametrize("flag", [[], ["--json"]])
    def test_one_that_is_cut_off_is_no_failure_and_said(self, flag: list[str], qnext: Run) -> None:
        code, _, err = qnext("Add", *flag, engine=Engine((*SUM[3:6], finished("It is", reason="length"))))
        assert code == 0
        assert "cut off at the token limit" in err

    def test_a_thought_that_is_cut_off_is_no_answer(self, qnext: Run) -> None:
        result = replace(finished("", "hm", "length"), thought_end="unclosed")
        for flag, said in (
            ("--json", "The thought is cut off at the token limit"),
            ("--think", "thought cut off at"),
        ):
            assert said in qnext("Add", flag, engine=Engine((*SUM[:2], result)))[2]

    def test_a_place_that_cannot_be_written_is_refused_before_anything_is_loaded(
        self, qnext: Run, engine: Engine, tmp_path: Path
    ) -> None:
        for place in (tmp_path, tmp_path / "nowhere" / "a", "/dev/null", tmp_path / ("x" * 300)):
            assert qnext("Add", "--output", str(place))[0] == 10
        assert engine.asked == []

    def test_where_stdout_is_a_file_its_device_does_not_replace_that(
        self, qnext: Run, engine: Engine, tmp_path: Path
    ) -> None:
        (tmp_path / "log").write_text("before")
        with (tmp_path / "log").open() as opened:
            code, _, err = qnext("Add", "--output", f"/dev/fd/{opened.fileno()}")
        assert (code, engine.asked) == (10, [])
        assert "or - for stdout" in err
        assert (tmp_path / "log").read_text() == "before"

    def test_a_dash_is_stdout(self, qnext: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert qnext("Add", "--output", "-")[:2] == (0, "It is 132.\n")
        assert list(tmp_path.iterdir()) == []

    def test_an_answer_that_cannot_be_written_is_not_lost(self, qnext: Run, tmp_path: Path) -> None:
        class Vanishing(Engine):
            def generate(self, messages: Sequence[Any], config: Any) -> Iterator[Event]:
                (tmp_path / "there").rmdir()
                yield from super().generate(messages, config)

        (tmp_path / "there").mkdir()
        code, out, err = qnext("Add", "--output", str(tmp_path / "there" / "a"), engine=Vanishing())
        assert (code, out) == (10, "It is 132.\n")
        assert "cannot be written" in err

    def test_a_full_disk_behind_stdout_is_said(
        self, qnext: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("cli.generate.typer.echo", refuse)
        code, _, err = qnext("Add", "--json")
        assert code == 10
        assert "The disk is full where stdout or stderr go" in err

    def test_a_link_to_a_file_stays_one(self, qnext: Run, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "file")
        qnext("Add", "--output", str(tmp_path / "link"))
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "file").read_text() == "It is 132.\n"
