"""A conversion that is stopped at any moment goes on and ends in the same bytes; nothing unfinished looks finished."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders import write_hf_checkpoint
from quantizing import quantize

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.errors import OutputError, QnextError, UsageError
from quantize.loss import Loss
from quantize.output_files import OutputWriter
from quantize.piece import convert_piece
from quantize.recipe import Recipe
from quantize.recipe_file import find_recipe
from quantize.workspace import Workspace

RECIPE = find_recipe("4bit").with_group_size(32)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf_checkpoint(tmp_path_factory.mktemp("published") / "model", shards=3)


@pytest.fixture(scope="module")
def converted(published: Path) -> dict[str, bytes]:
    """What an uninterrupted run makes."""
    dest = published.parent / "converted"
    quantize(published, dest, RECIPE)
    return contents(dest)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece is handed out alone and recorded at once, so that there is much to interrupt."""
    monkeypatch.setattr("quantize.convert._TASK_BYTES", 1)
    monkeypatch.setattr("quantize.convert._RECORD_EVERY_BYTES", 1)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Stops:
    """Fails at the n-th piece, and counts them."""

    def __init__(self, at: int, failure: BaseException) -> None:
        self.at, self.failure, self.count = at, failure, 0

    def __call__(self, *args: object) -> Loss:
        self.count += 1
        if self.count == self.at:
            raise self.failure
        return convert_piece(*args)


FAILURES = {
    "an interrupt": (KeyboardInterrupt(), KeyboardInterrupt, ""),
    "a full disk": (OSError(errno.ENOSPC, "No space left on device"), OutputError, "free some space"),
    "a disk that fails": (OSError(errno.EIO, "Input/output error"), OutputError, "Input/output error"),
}


@pytest.mark.parametrize("at", [1, 7, 60])
@pytest.mark.parametrize("row", FAILURES)
def test_what_was_stopped_goes_on_and_nothing_is_done_twice(
    row: str,
    at: int,
    published: Path,
    converted: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failure, kind, phrase = FAILURES[row]
    first = Stops(at, failure)
    monkeypatch.setattr("quantize.convert.convert_piece", first)
    with pytest.raises(kind) as caught:
        quantize(published, tmp_path / "out", RECIPE)
    assert phrase in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["out.incomplete"]
    second = Stops(0, failure)
    monkeypatch.setattr("quantize.convert.convert_piece", second)
    quantize(published, tmp_path / "out", RECIPE)
    assert contents(tmp_path / "out") == converted
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    # What was under way when the first run was stopped is done again, one piece a worker at most.
    done_by_both = first.count + second.count - _pieces(published)
    assert 1 <= done_by_both <= 8


def _pieces(published: Path) -> int:
    return len(Checkpoint.open(published).tensors)


@pytest.mark.parametrize("name", ["complete", "sign"])
def test_what_was_stopped_behind_its_last_piece_goes_on(
    name: str, published: Path, converted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(f"quantize.job.{name}", stop)
        with pytest.raises(KeyboardInterrupt):
            quantize(published, tmp_path / "out", RECIPE)
    assert not (tmp_path / "out").exists()
    quantize(published, tmp_path / "out", RECIPE)
    assert contents(tmp_path / "out") == converted


COMMAND = """
import sys
import quantize.convert as convert
convert._TASK_BYTES = convert._RECORD_EVERY_BYTES = 1
from pathlib import Path
from quantize.job import Listeners, prepare
from quantize.recipe_file import find_recipe

def wait_for_the_end(step):
    if step.done_bytes and step.done_bytes >= float(sys.argv[3]) * step.total_bytes:
        print("so far", flush=True)
        sys.stdin.read()

with prepare(sys.argv[1], Path(sys.argv[2]), find_recipe("4bit").with_group_size(32)) as job:
    job.run(None, Listeners(on_step=wait_for_the_end))
"""


def _run_and_kill(source: Path, dest: Path, after: float) -> bool:
    """Kill a conversion in a process of its own once this share of its work is done; `False` where no work was left."""
    command = [sys.executable, "-c", COMMAND, str(source), str(dest), str(after)]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        working = process.stdout.readline() == b"so far\n"
        process.kill()
    return working


@pytest.mark.slow
def test_killed_again_and_again_at_random_points_it_ends_in_the_same_bytes(
    published: Path, converted: dict[str, bytes], tmp_path: Path
) -> None:
    dest, draw = tmp_path / "out", random.Random(0)
    for share in sorted(draw.random() for _ in range(12)):
        if not _run_and_kill(published, dest, share):
            break
        assert not dest.exists()
        assert not (Workspace(dest).result / "config.json").exists()
    if not dest.exists():
        quantize(published, dest, RECIPE)
    assert contents(dest) == converted


def test_killed_once_it_ends_in_the_same_bytes(
    published: Path, converted: dict[str, bytes], tmp_path: Path
) -> None:
    assert _run_and_kill(published, tmp_path / "out", after=0.1)
    assert (tmp_path / "out.incomplete" / "journal.jsonl").exists()
    quantize(published, tmp_path / "out", RECIPE)
    assert contents(tmp_path / "out") == converted


@pytest.fixture
def unfinished(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The journal of a conversion into `out` that was stopped half-way."""
    with monkeypatch.context() as broken:
        broken.setattr("quantize.convert.convert_piece", Stops(40, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            quantize(published, tmp_path / "out", RECIPE)
    return tmp_path / "out.incomplete" / "journal.jsonl"


def test_a_line_that_was_half_written_is_done_again_and_spoils_no_later_one(
    published: Path,
    converted: dict[str, bytes],
    unfinished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with unfinished.open("ab") as file:
        file.write(b"[99, 0.0")
    with monkeypatch.context() as broken:
        broken.setattr("quantize.convert.convert_piece", Stops(20, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            quantize(published, tmp_path / "out", RECIPE)
    quantize(published, tmp_path / "out", RECIPE)
    assert contents(tmp_path / "out") == converted


def test_a_piece_is_recorded_only_once_its_bytes_would_survive_a_loss_of_power(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    flush, record = OutputWriter.flush, Workspace.record
    monkeypatch.setattr(OutputWriter, "flush", lambda self: told.append("flush") or flush(self))
    monkeypatch.setattr(Workspace, "record", lambda self, done: told.append("record") or record(self, done))
    quantize(published, tmp_path / "out", RECIPE)
    assert len(told) > 10
    assert told == ["flush", "record"] * (len(told) // 2)


def test_another_recipe_does_not_go_on_with_it(published: Path, unfinished: Path, tmp_path: Path) -> None:
    before = unfinished.read_bytes()
    with pytest.raises(UsageError, match="another source or recipe"):
        quantize(published, tmp_path / "out", find_recipe("8bit").with_group_size(32))
    assert unfinished.read_bytes() == before


def test_a_source_that_changed_is_not_gone_on_with(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(published, tmp_path / "source")
    with monkeypatch.context() as broken:
        broken.setattr("quantize.convert.convert_piece", Stops(40, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            quantize(source, tmp_path / "out", RECIPE)
    shard = source / "model-00003-of-00003.safetensors"
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))
    with pytest.raises(UsageError, match="another source or recipe"):
        quantize(source, tmp_path / "out", RECIPE)


@pytest.mark.parametrize("content", [b"", b"\n", b"{}\n", b"not json\n", b"[1, 2]\n"])
def test_a_journal_that_is_damaged_is_refused(
    content: bytes, published: Path, unfinished: Path, tmp_path: Path
) -> None:
    unfinished.write_bytes(content)
    with pytest.raises(UsageError, match="another source or recipe"):
        quantize(published, tmp_path / "out", RECIPE)


def test_a_folder_of_that_name_that_is_somebody_elses_is_left_alone(published: Path, tmp_path: Path) -> None:
    (tmp_path / "out.incomplete" / "result").mkdir(parents=True)
    (tmp_path / "out.incomplete" / "result" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="no unfinished conversion"):
        quantize(published, tmp_path / "out", RECIPE)
    assert (tmp_path / "out.incomplete" / "result" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("recipe", [RECIPE, find_recipe("4bit").with_group_size(128)], ids=["fits", "unfit"])
def test_a_folder_of_that_name_loses_nothing_of_its_owners(
    recipe: Recipe, published: Path, tmp_path: Path
) -> None:
    (tmp_path / "out.incomplete").mkdir()
    (tmp_path / "out.incomplete" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="no unfinished conversion"):
        quantize(published, tmp_path / "out", recipe)
    assert (tmp_path / "out.incomplete" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_a_journal_whose_files_are_gone_is_not_believed(
    name: str, published: Path, unfinished: Path, tmp_path: Path
) -> None:
    result = unfinished.parent / "result"
    (result / name).unlink() if name else shutil.rmtree(result)
    with pytest.raises(UsageError, match="was damaged"):
        quantize(published, tmp_path / "out", RECIPE)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("line", [b"\0\0\0\n", b"[1]\n", b'["1", 0.0, 0.0]\n'])
def test_a_journal_with_a_line_that_is_none_is_not_believed(
    line: bytes, published: Path, unfinished: Path, tmp_path: Path
) -> None:
    with unfinished.open("ab") as file:
        file.write(line)
    with pytest.raises(UsageError, match="was damaged"):
        quantize(published, tmp_path / "out", RECIPE)


def test_two_at_once_do_not_share_a_destination(published: Path, tmp_path: Path) -> None:
    from quantize.job import prepare

    with (
        prepare(str(published), tmp_path / "out", RECIPE),
        pytest.raises(UsageError, match="in use by another qnext"),
        prepare(str(published), tmp_path / "out", RECIPE),
    ):
        pass
    assert not (tmp_path / "out.incomplete").exists()


def test_a_refusal_before_the_work_leaves_nothing(published: Path, tmp_path: Path) -> None:
    with pytest.raises(QnextError):
        quantize(published, tmp_path / "out", find_recipe("4bit").with_group_size(128))
    assert not list(tmp_path.iterdir())
