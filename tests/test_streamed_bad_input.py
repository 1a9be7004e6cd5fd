"""A model whose experts are read when they are routed to, as its user meets it when something goes wrong meanwhile."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import re
import resource
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx
import pytest
from failing_reads import failing, failing_on, numbers_of, refusing
from streamed_program import before, few_slots

from cli.main import main
from mlx_qnext.experts import pool
from mlx_qnext.experts.store import ExpertStore
from mlx_qnext.generate import engine as engine_module
from mlx_qnext.generate.run import Run
from mlx_qnext.hub import embedded_model
from mlx_qnext.model import loading

SUM, MORE = "What is 47 + 85?", "And plus 10?"
Happens = Callable[[Path, pytest.MonkeyPatch], object]
Qnext = Callable[..., int]


class Watched(ExpertStore):
    """A store that is known to whoever checks what is left of it."""

    opened: ClassVar[list[ExpertStore]] = []

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.opened.append(self)


def threads_of(store: ExpertStore) -> list[threading.Thread]:
    background = [] if store._background is None else [store._background]
    return [*store._reader._threads._threads, *background]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture(autouse=True)
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "plan_memory", few_slots(engine_module.plan_memory))
    monkeypatch.setattr(engine_module, "ExpertStore", Watched)
    monkeypatch.setattr(Watched, "opened", [])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the embedded model."""
    return Path(shutil.copytree(embedded_model(), tmp_path / "model"))


@pytest.fixture
def qnext(monkeypatch: pytest.MonkeyPatch, model: Path) -> Iterator[Qnext]:
    """Runs the program on the copy; afterwards no thread of it is left."""

    def run(command: str, *arguments: str) -> int:
        greedy = ["--model", str(model), "--temp", "0", "--no-think"]
        monkeypatch.setattr(sys, "argv", ["qnext", command, *greedy, *arguments])
        # Beside a prompt it is read, and the test runner's own refuses to be.
        if command == "generate":
            monkeypatch.setattr(sys, "stdin", nothing)
        with pytest.raises(SystemExit) as left:
            main()
        assert isinstance(left.value.code, int)
        return left.value.code

    # Opened once: some tests keep the program from opening files.
    with Path(os.devnull).open() as nothing:
        yield run
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == "qnext-retire":
            thread.join()
    for store in Watched.opened:
        assert not any(thread.is_alive() for thread in threads_of(store))
        assert not store._reader._files._descriptors


def the_sentence(errors: str) -> str:
    """The last line on stderr, and the only one of the program's own."""
    assert "Traceback" not in errors
    assert errors.count("qnext: ") == 1
    *_, last = errors.splitlines()
    assert last.startswith("qnext: ")
    assert last.endswith(".")
    return last


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def fail(code: int) -> Happens:
    return lambda _, patched: patched.setattr(os, "preadv", failing(code))


def go_away(folder: Path, patched: pytest.MonkeyPatch) -> None:
    folder.rename(folder.with_name("away"))
    fail(errno.EIO)(folder, patched)


def end_early(_: Path, patched: pytest.MonkeyPatch) -> None:
    patched.setattr(os, "preadv", lambda *_: 0)


def become_another(folder: Path, patched: pytest.MonkeyPatch) -> None:
    held = numbers_of(weights(folder))
    shutil.copy(weights(folder), folder / "other")
    (folder / "other").replace(weights(folder))
    # At last: a read that fails while the old file is there would open that one anew.
    patched.setattr(os, "preadv", failing_on(held))


WHILE_RUNNING: dict[str, tuple[Happens, str]] = {
    "a disk that fails": (fail(errno.EIO), "cannot be read (Input/output error): check the disk"),
    "a share that is stale": (fail(errno.ESTALE), "not there any more: connect its disk again"),
    "a disk that goes away": (go_away, "not there any more: connect its disk again"),
    "a read that ends early": (end_early, "gave 0 bytes at"),
    "a file cut short": (lambda f, _: os.truncate(weights(f), 100_000), "is cut short: 100000 bytes"),
    "a file written in place": (lambda f, _: os.utime(weights(f), ns=(0, 0)), "was written to while it is"),
    "another file in its place": (become_another, "is another file than the one in use"),
}


@pytest.mark.parametrize("row", WHILE_RUNNING)
@pytest.mark.parametrize("phase", [pytest.param("_read", marks=pytest.mark.slow), "_say"])
def test_what_befalls_the_weights_while_they_are_in_use_is_one_sentence(
    row: str,
    phase: str,
    qnext: Qnext,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    happens, sentence = WHILE_RUNNING[row]
    monkeypatch.setattr(Run, phase, getattr(Run, phase))
    before(Run, phase, lambda: happens(model, monkeypatch))
    assert qnext("generate", SUM, "--max-tokens", "8") == 4
    assert sentence in the_sentence(capsys.readouterr().err)


def test_files_that_are_replaced_or_deleted_while_in_use_change_nothing(
    qnext: Qnext, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def replace_and_delete() -> None:
        (model / "new").write_bytes(b"x")
        (model / "new").replace(weights(model))
        (model / "mtp.safetensors").unlink()

    monkeypatch.setattr(Run, "_say", Run._say)
    before(Run, "_say", replace_and_delete)
    assert qnext("generate", SUM) == 0
    assert "132" in capsys.readouterr().out


def prompts(errors: str) -> list[str]:
    """How many tokens each question came to with all that was said before, and how many of them were remembered."""
    found = re.findall(r"prompt \d+(?: \(\d+ cached\))?", errors)
    assert "cached" in found[-1]
    return found


class TestConversations:
    """A disk that is away for one question."""

    @pytest.fixture
    def typed(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], None]:
        """Types the questions into a terminal; the disk is away while the one that is marked with ! is asked."""

        def turns(questions: Sequence[str]) -> Iterator[str]:
            for question in questions:
                with monkeypatch.context() as patched:
                    if question.startswith("!"):
                        go_away(model, patched)
                    yield question.removeprefix("!")
                if question.startswith("!"):
                    model.with_name("away").rename(model)

        def types(questions: Sequence[str]) -> None:
            monkeypatch.setattr("cli.terminal.stdin_is_terminal", lambda: True)
            monkeypatch.setattr("cli.chat.typed_turns", lambda *_: turns(questions))

        return types

    def test_in_a_terminal_the_next_question_is_answered_as_if_nothing_had_been(
        self,
        typed: Callable[[Sequence[str]], None],
        qnext: Qnext,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        typed([SUM, MORE])
        assert qnext("chat") == 0
        undisturbed = capsys.readouterr()
        typed([f"!{SUM}", SUM, f"!{MORE}", MORE])
        assert qnext("chat") == 0
        shown = capsys.readouterr()
        assert "132" in shown.out
        assert shown.out == undisturbed.out
        assert prompts(shown.err) == prompts(undisturbed.err)
        assert shown.err.count("connect its disk again") == 2
        assert "Traceback" not in shown.err

    def test_through_a_pipe_the_first_failure_ends_it(
        self,
        qnext: Qnext,
        model: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{SUM}\n{MORE}\nhi\n".encode())))
        asked = iter([None])
        monkeypatch.setattr(Run, "_read", Run._read)
        before(Run, "_read", lambda: next(asked, "again") and go_away(model, monkeypatch))
        assert qnext("chat", "--json") == 4
        shown = capsys.readouterr()
        (first,) = map(json.loads, shown.out.splitlines())
        assert "132" in first["text"]
        assert "connect its disk again" in the_sentence(shown.err)


class TestLoading:
    def test_weights_that_may_not_be_read_are_one_sentence(
        self, qnext: Qnext, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(os, "open", refusing(errno.EACCES))
        assert qnext("generate", "hi") == 4
        assert "check its permissions" in the_sentence(capsys.readouterr().err)

    @pytest.mark.parametrize("free", [4, pytest.param(30, marks=pytest.mark.slow), 60])
    def test_too_few_descriptors_for_all_shards_are_one_sentence(
        self, free: int, qnext: Qnext, model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        # What is imported late takes a descriptor.
        assert qnext("generate", "hi", "--max-tokens", "1") == 0
        capsys.readouterr()
        split(model, 40)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(2)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, hard))
        try:
            code = qnext("generate", "hi")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert code == 4
        assert "raise the limit with ulimit -n" in the_sentence(capsys.readouterr().err)

    def test_a_file_cut_short_while_it_is_loaded_is_one_sentence(
        self,
        qnext: Qnext,
        model: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(loading, "read", loading.read)
        before(loading, "read", lambda: os.truncate(weights(model), 60_000))
        assert qnext("generate", "hi") == 4
        assert "could not be read to their end" in the_sentence(capsys.readouterr().err)

    @pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[malloc] Unable to allocate 8 bytes.")])
    def test_memory_that_is_not_there_after_all_is_one_sentence(
        self,
        error: Exception,
        qnext: Qnext,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(pool, "SlotArray", refuse)
        assert qnext("generate", "hi") == 9
        assert "close other programs, or give it less" in the_sentence(capsys.readouterr().err)


def split(folder: Path, shards: int) -> None:
    """Spread the trunk's weights over so many files."""
    tensors = mx.load(str(weights(folder)))
    assert isinstance(tensors, dict)
    mx.eval(tensors)
    weights(folder).unlink()
    names = sorted(tensors)
    for n in range(shards):
        part = {name: tensors[name] for name in names[n::shards]}
        mx.save_safetensors(str(folder / f"model-{n:02}.safetensors"), part, {"format": "mlx"})


class TestBudgets:
    @pytest.mark.parametrize(
        ("option", "value", "code", "phrase"),
        [
            ("--memory", "plenty", 2, "'plenty' is no size of memory"),
            ("--memory", "0", 2, "'0' is no size of memory"),
            ("--memory", "-8G", 2, "'-8G' is no size of memory"),
            ("--memory", "1K", 9, "give it 0."),
            ("--memory", "900T", 9, "900000.0 GB of memory are asked for and this machine has"),
            ("--context", "0", 2, "context"),
            ("--context", "-5", 2, "context"),
        ],
    )
    def test_one_that_cannot_be_meant_is_one_sentence(
        self,
        option: str,
        value: str,
        code: int,
        phrase: str,
        qnext: Qnext,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert qnext("generate", "hi", f"{option}={value}") == code
        assert phrase in the_sentence(capsys.readouterr().err)

    def test_the_smallest_that_is_named_works(
        self, qnext: Qnext, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.undo()
        assert qnext("generate", "hi", "--memory", "1K") == 9
        least = re.findall(r"give it ([\d.]+ GB)", capsys.readouterr().err)
        assert qnext("generate", "hi", "--max-tokens", "2", "--memory", *least) == 0

    def test_a_context_beyond_the_models_is_refused(
        self, qnext: Qnext, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert qnext("generate", "hi", "--context", "1000000000") == 2
        assert "has 4096" in the_sentence(capsys.readouterr().err)
