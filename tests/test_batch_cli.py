"""`qnext batch` as scripts rely on it: every line gets one record, whatever happens on the way."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.batch import run_batch
from fakes.engine import finished
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import mlx_qnext.disk
from cli import batch as command
from cli.batch import SOME_FAILED_EXIT_CODE
from cli.batch_input import Entry, entries
from cli.batch_output import FLUSH_EVERY_S, ResultFile, result_file
from cli.main import main
from cli.views.batch import BatchCount, BatchView
from mlx_qnext.errors import CheckpointError, OutputError, UsageError
from mlx_qnext.generate.batch_request import BatchRequest, BatchResult
from mlx_qnext.generate.request import GenerationConfig

ROOT = Path(__file__).parent.parent


def lines(*objects: Any) -> bytes:
    return b"".join(o if isinstance(o, bytes) else json.dumps(o).encode() + b"\n" for o in objects)


def records(path: Path) -> list[dict[str, Any]]:
    content = path.read_text(encoding="utf-8")
    assert content.endswith("\n")
    return [json.loads(line) for line in content.splitlines()]


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "load_engine", lambda *_: None)
    monkeypatch.setattr("mlx_qnext.generate.batch.run_batch", run_batch)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["qnext", "batch", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    code = exit_.value.code or 0
    assert isinstance(code, int)
    return code


@pytest.mark.usefixtures("faked")
class TestProtocol:
    def test_every_line_has_one_record(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        asked = [{"id": n, "prompt": "fail" if n == 500 else f"question {n}"} for n in range(1000)]
        source.write_bytes(lines(*asked[:10], b"{\n", *asked[10:], {"id": 5, "prompt": "again"}))
        assert run(monkeypatch, str(source), "--out", str(out)) == SOME_FAILED_EXIT_CODE
        found = records(out)
        assert {r["id"]: r["text"] for r in found if "text" in r} == {
            n: f"question {n}" for n in range(1000) if n != 500
        }
        errors = sorted((r["line"], r["id"]) for r in found if "error" in r)
        assert errors == [(11, None), (502, 500), (1002, 5)]
        assert len(found) == 1002
        assert "1002 done, 3 failed" in capfd.readouterr().err

    def test_results_go_to_stdout_and_everything_else_to_stderr(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        source = tmp_path / "in.txt"
        source.write_text("One\nTwo\n")
        assert run(monkeypatch, str(source)) == 0
        streams = capfd.readouterr()
        assert {json.loads(line)["id"] for line in streams.out.splitlines()} == {1, 2}
        assert "2 done" in streams.err

    def test_a_record_is_what_generate_prints_and_its_id(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        source = tmp_path / "in.jsonl"
        source.write_bytes(lines({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "y", "tools": [{}]}))
        assert run(monkeypatch, str(source), "-m", "some/model") == 0
        first, second = sorted(map(json.loads, capfd.readouterr().out.splitlines()), key=lambda r: r["id"])
        assert {"id", "text", "thinking", "finish_reason", "usage", "speed", "model"} < set(first)
        assert set(first["usage"]) == {"prompt_tokens", "cached_tokens", "completion_tokens"}
        assert first["model"] == "some/model"
        assert "tool_calls" not in first
        assert second["tool_calls"] == []

    def test_a_record_has_its_notices_and_how_many_have_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        source = tmp_path / "in.txt"
        source.write_text("tell\nquestion\n")
        assert run(monkeypatch, str(source)) == 0
        streams = capfd.readouterr()
        found = {r["id"]: r["notices"] for r in map(json.loads, streams.out.splitlines())}
        assert found == {1: ["Something was met."], 2: []}
        assert "1 answer has notices" in streams.err

    def test_the_command_s_thinking_budget_is_that_of_lines_that_name_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken: list[BatchRequest] = []

        def taking(_: object, requests: Iterable[tuple[int, BatchRequest]], *__: Any) -> Iterator[Any]:
            taken.extend(request for _, request in requests)
            return iter(())

        monkeypatch.setattr("mlx_qnext.generate.batch.run_batch", taking)
        source = tmp_path / "in.jsonl"
        source.write_bytes(lines({"id": 1, "prompt": "x"}, {"id": 2, "prompt": "x", "thinking_budget": 3}))
        assert run(monkeypatch, str(source), "--think-budget", "9") == 0
        assert [request.config.thinking_budget for request in taken] == [9, 3]

    def test_an_existing_file_is_refused_and_unharmed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
        source.write_text("One\n")
        for mine in ("mine", '{"id": 1, "prompt": "x"}', '{"id": 1, "prompt": "x"}\n'):
            out.write_text(mine)
            assert run(monkeypatch, str(source), "--out", str(out)) == UsageError.exit_code
            assert run(monkeypatch, str(source), "--out", str(out), "--resume") == UsageError.exit_code
            assert out.read_text() == mine
        first, second, *_ = capfd.readouterr().err.splitlines()
        assert "--resume" in first
        assert "Line 1 of" in second

    @pytest.mark.parametrize("resume", [[], ["--resume"]])
    def test_the_input_is_never_the_output(
        self,
        resume: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        source, link = tmp_path / "in.jsonl", tmp_path / "link.jsonl"
        source.write_text('{"id": 1, "prompt": "x"}')
        link.symlink_to(source)
        assert run(monkeypatch, str(source), "--out", str(link), *resume) == UsageError.exit_code
        assert source.read_text() == '{"id": 1, "prompt": "x"}'
        assert "is the input itself" in capfd.readouterr().err

    def test_answers_to_something_else_are_not_taken_for_those_of_this_input(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
        arguments = [str(source), "--out", str(out), "--resume"]
        source.write_text("One\nTwo\n")
        assert run(monkeypatch, *arguments) == 0
        before = out.read_bytes()
        source.write_text("One\nChanged\nThree\n")
        assert run(monkeypatch, *arguments) == UsageError.exit_code
        assert "than line 2 is now" in capfd.readouterr().err
        source.write_text("One\n")
        assert run(monkeypatch, *arguments) == 0
        assert "1 answer is of no line of" in capfd.readouterr().err
        assert out.read_bytes() == before

    def test_results_go_into_a_file_and_no_device(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        source = tmp_path / "in.txt"
        source.write_text("One\n")
        for no_file in ("/dev/null", str(tmp_path)):
            for resume in ([], ["--resume"]):
                assert run(monkeypatch, str(source), "--out", no_file, *resume) == UsageError.exit_code, (
                    no_file
                )
                assert "is not a file" in capfd.readouterr().err

    def test_what_is_done_is_not_done_again_and_what_failed_is_still_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        source.write_bytes(lines({"id": "a", "prompt": "x"}, b"{\n", {"id": "a", "prompt": "y"}))
        arguments = [str(source), "--out", str(out), "--resume"]
        assert run(monkeypatch, *arguments) == SOME_FAILED_EXIT_CODE
        before = out.read_bytes()
        assert run(monkeypatch, *arguments) == SOME_FAILED_EXIT_CODE
        assert out.read_bytes() == before
        assert len(records(out)) == 3

    @pytest.mark.parametrize(
        ("end", "code"),
        [(KeyboardInterrupt(), 130), (CheckpointError("An expert is gone."), CheckpointError.exit_code)],
    )
    def test_whatever_ends_it_what_is_finished_is_kept_and_how_to_go_on_is_said(
        self,
        end: BaseException,
        code: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        def interrupted(*arguments: Any) -> Iterator[BatchResult]:
            yield BatchResult(1, finished("second"))
            raise end

        monkeypatch.setattr("mlx_qnext.generate.batch.run_batch", interrupted)
        source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
        source.write_text("One\nTwo\n")
        assert run(monkeypatch, str(source), "--out", str(out)) == code
        assert [r["id"] for r in records(out)] == [2]
        assert "1 of 2 done" in (said := capfd.readouterr().err)
        assert "--resume" in said

    def test_an_interrupt_before_anything_is_finished_promises_no_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(command, "load_engine", interrupted)
        source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
        source.write_text("One\n")
        assert run(monkeypatch, str(source), "--out", str(out)) == 130
        assert not out.exists()
        assert "--resume" not in capfd.readouterr().err

    def test_where_nothing_was_written_there_is_no_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: Any) -> None:
            raise UsageError("No such model.")

        monkeypatch.setattr(command, "load_engine", refused)
        source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
        source.write_text("One\n")
        assert run(monkeypatch, str(source), "--out", str(out)) == UsageError.exit_code
        assert not out.exists()

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["missing.txt"], "cannot be read"),
            (["IN", "--resume"], "--out"),
            (["IN", "--concurrency", "0"], "--concurrency is 0"),
            (["IN", "--out", "no/such/folder/out.jsonl"], "cannot be written"),
        ],
    )
    def test_what_cannot_be_meant_is_one_sentence(
        self,
        arguments: list[str],
        reason: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        source = tmp_path / "in.txt"
        source.write_text("One\n")
        monkeypatch.chdir(tmp_path)
        named = [str(source) if argument == "IN" else argument for argument in arguments]
        assert run(monkeypatch, *named) in (UsageError.exit_code, OutputError.exit_code)
        said = capfd.readouterr().err
        assert reason in said
        assert said.count("\n") == 1


class Killed(BaseException):
    """Nothing catches it, as nothing catches a signal 9."""


def dying(after_bytes: int) -> Callable[[int, bytes, int], None]:
    """A way to write that ends with the program after so many bytes more, in the middle of a line or not."""
    left = after_bytes

    def write(descriptor: int, content: bytes, offset: int) -> None:
        nonlocal left
        os.pwrite(descriptor, content[:left], offset)
        if len(content) > left:
            raise Killed
        left -= len(content)

    return write


class TestResults:
    @settings(deadline=None, max_examples=25)
    @given(st.lists(st.integers(0, 400), max_size=12), st.integers(1, 12))
    def test_killed_wherever_it_writes_and_resumed_no_line_is_lost_and_none_there_twice(
        self, deaths: list[int], count: int
    ) -> None:
        content = lines(*({"id": f"№{n}", "prompt": "x"} for n in range(count)), b"{\n")
        asked = entries(content, "in.jsonl", None, GenerationConfig())
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            path = Path(folder) / "out.jsonl"
            for death in deaths:
                patch.setattr("cli.batch_output.write_at", dying(death))
                try:
                    _answer(path, asked)
                except Killed:
                    continue
            patch.setattr("cli.batch_output.write_at", mlx_qnext.disk.write_at)
            _answer(path, asked)
            found = records(path)
        assert sorted(str(r["id"]) for r in found) == sorted(str(entry.id) for entry in asked)

    def test_a_line_that_was_cut_off_goes_and_the_others_stay(self, tmp_path: Path) -> None:
        path = tmp_path / "out.jsonl"
        path.write_bytes(lines({"id": "a", "finish_reason": "stop"}) + b'{"id": "b", "finish_rea')
        with result_file(path, resume=True) as file:
            assert set(file.done.answered) == {"a"}
        assert path.read_bytes() == lines({"id": "a", "finish_reason": "stop"})

    @pytest.mark.parametrize("line", [b"{}\n", b"x\n", b"\n", b"[1]\n", lines({"id": "a", "prompt": "x"})])
    def test_what_holds_something_else_is_refused_and_unharmed(self, line: bytes, tmp_path: Path) -> None:
        path = tmp_path / "out.jsonl"
        content = lines({"id": "a", "finish_reason": "stop"}) + line + b"more"
        path.write_bytes(content)
        with pytest.raises(UsageError, match="Line 2"), result_file(path, resume=True):
            pass
        assert path.read_bytes() == content

    def test_two_programs_never_write_to_one_file(self, tmp_path: Path) -> None:
        path = tmp_path / "out.jsonl"
        with (
            result_file(path, resume=False),
            pytest.raises(UsageError, match="in use"),
            result_file(path, resume=True),
        ):
            pass

    def test_a_full_disk_is_one_sentence(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        with result_file(tmp_path / "out.jsonl", resume=False) as file:
            monkeypatch.setattr("cli.batch_output.write_at", full)
            with pytest.raises(OutputError, match="--resume"):
                file.write({"id": 1})

    def test_what_is_written_reaches_the_disk_every_second(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flushed: list[float] = []
        now = 0.0
        monkeypatch.setattr("cli.batch_output.flush", lambda _: flushed.append(now))
        with (tmp_path / "out.jsonl").open("wb+") as file:
            results = ResultFile(tmp_path / "out.jsonl", file.fileno(), lambda: now)
            for now in (0.0, FLUSH_EVERY_S / 2, FLUSH_EVERY_S, 1.5 * FLUSH_EVERY_S, 2 * FLUSH_EVERY_S):
                results.write({"id": now})
        assert flushed == [FLUSH_EVERY_S, 2 * FLUSH_EVERY_S]


def _answer(path: Path, asked: list[Entry]) -> None:
    """Records for all that has none."""
    with result_file(path, resume=True) as file:
        for entry in asked:
            if file.done.holds(entry):
                continue
            if isinstance(entry.asked, str):
                file.write({"id": entry.id, "line": entry.line, "error": entry.asked})
            else:
                file.write({"id": entry.id, "finish_reason": "stop", "text": "é" * 20})


class TestView:
    def test_on_a_terminal_it_is_one_bar_that_leaves_no_trace(self) -> None:
        console = Console(width=100, force_terminal=True, file=io.StringIO(), color_system=None)
        count = BatchCount(4)
        with BatchView(console, lambda: 0.0) as view:
            view.begin(count)
            count.answered = 3
            view.update(count)
            assert isinstance(console.file, io.StringIO)
        shown = console.file.getvalue()
        assert "3 of 4 done" in shown
        assert shown.endswith("\x1b[1A\x1b[2K")

    @staticmethod
    def view(now: Iterable[float], lines: list[str]) -> BatchView:
        console = Console(width=100, force_terminal=False)
        console.print = lambda text, **_: lines.append(text)  # type: ignore[method-assign]
        clock = iter(now)
        return BatchView(console, lambda: next(clock))

    def test_elsewhere_than_on_a_terminal_it_says_a_line_every_tenth_and_every_minute(self) -> None:
        said: list[str] = []
        view = self.view([0.0, 1.0, 2.0, 2.0, 70.0, 70.0, 71.0], said)
        count = BatchCount(100, held=5)
        view.begin(count)
        for answered in (1, 5, 6, 7):
            count.answered, count.completion_tokens = answered, 10 * answered
            view.update(count)
        assert said == [
            "10 of 100 done, about 36 s left, 25.0 tok/s",
            "11 of 100 done, about 17 min 18 s left, 0.86 tok/s",
        ]

    def test_what_is_left_counts_neither_what_took_no_time_nor_twice_what_is_being_answered(self) -> None:
        # At 10 s the first of eight is answered, and the others are halfway: 4.5 of the 92 that take time.
        view = self.view([0.0, 10.0], [])
        count = BatchCount(100, held=5)
        view.begin(count, 8)
        count.failed, count.answered = 3, 1
        assert view.progress(count) == "9 of 100 done, 3 failed, about 3 min 14 s left"

    def test_in_a_terminal_that_draws_nothing_over_it_says_lines_too(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TERM", "dumb")
        console = Console(width=100, force_terminal=True, file=io.StringIO())
        count = BatchCount(4)
        with BatchView(console, lambda: 0.0) as view:
            view.begin(count)
            count.answered = 3
            view.update(count)
        assert isinstance(console.file, io.StringIO)
        assert console.file.getvalue().startswith("3 of 4 done")

    def test_the_outcome_says_what_failed_and_what_was_shared(self) -> None:
        view = self.view([0.0, 65.0, 65.0, 65.0], [])
        count = BatchCount(10, 2, 1, 7, 1, 1000, 430, 5265)
        view.begin(count)
        assert view.outcome(count) == (
            "10 done, 2 failed, in 1 min 5 s, 81.0 tok/s; 43 % of the prompts' tokens were shared"
        )


# The program, with an engine that echoes, which a signal 9 ends after so many bytes of its n-th write.
KILLED = """
import os, signal, sys
sys.path[:0] = ["tests"]
import cli.batch, cli.batch_output
{engine}
whole, writes, bytes_ = cli.batch_output.write_at, int(sys.argv.pop(1)), int(sys.argv.pop(1))

def write_at(descriptor, content, offset):
    global writes
    writes -= 1
    if not writes:
        whole(descriptor, content[:bytes_], offset)
        os.kill(os.getpid(), signal.SIGKILL)
    whole(descriptor, content, offset)

cli.batch_output.write_at = write_at
from cli.main import main
main()
"""
FAKED = """
import fakes.batch
cli.batch.load_engine = lambda *_: None
sys.modules["mlx_qnext.generate.batch"] = fakes.batch
"""


def killed(program: str, writes: int, *arguments: str, after_bytes: int = 100) -> int:
    command = [sys.executable, "-c", program, str(writes), str(after_bytes), "batch", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True).returncode


@pytest.mark.slow
def test_a_thousand_lines_survive_a_program_that_is_killed_again_and_again(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(lines(*({"id": n, "prompt": f"question {n}"} for n in range(1000))))
    program, arguments = KILLED.format(engine=FAKED), [str(source), "--out", str(out), "--resume"]
    dice = random.Random(1000)
    for _ in range(8):
        # Before a record, within one, and after all of it.
        writes, after = dice.randint(1, 110), dice.choice([0, dice.randint(1, 200), 1 << 20])
        assert killed(program, writes, *arguments, after_bytes=after) == -signal.SIGKILL
        *whole, _ = out.read_bytes().split(b"\n")
        assert all("finish_reason" in json.loads(line) for line in whole)
    assert killed(program, 0, *arguments) == 0
    assert sorted(r["id"] for r in records(out)) == list(range(1000))
    assert len(records(out)) == 1000


@pytest.mark.slow
def test_a_killed_batch_of_the_model_goes_on_to_the_same_answers(tmp_path: Path) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("".join(f"What is {n} + 4?\n" for n in (3, 4, 5)))
    options = ["--out", str(out), "--max-tokens", "3", "--temp", "0", "-n", "2"]
    assert killed(KILLED.format(engine=""), 2, str(source), *options) == -signal.SIGKILL
    assert killed(KILLED.format(engine=""), 0, str(source), *options, "--resume") == 0
    assert sorted(r["id"] for r in records(out)) == [1, 2, 3]
    assert all(r["usage"]["completion_tokens"] == 3 for r in records(out))


def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("question\n" * 3000)
    program = KILLED.format(engine=FAKED)
    command = [sys.executable, "-c", program, "0", "0", "batch", str(source)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["text"] == "question"
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode == 1
    assert "Traceback" not in said
    assert "BrokenPipe" not in said
