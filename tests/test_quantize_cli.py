"""`qnext quantize` and `qnext inspect --verify` as people and scripts meet them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from builders import write_hf_checkpoint

from cli.main import main
from mlx_qnext.hub import embedded_model

ROOT = Path(__file__).parent.parent
PROGRAM = [sys.executable, "-m", "cli"]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def qnext(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The program in this process."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["qnext", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        assert isinstance(left.value.code, int)
        return subprocess.CompletedProcess(arguments, left.value.code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_hf_checkpoint(tmp_path_factory.mktemp("source") / "model", shards=2)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(embedded_model() / file, folder)
    return folder


def test_it_tells_what_it_makes_makes_it_and_tells_what_was_lost(
    source: Path, tmp_path: Path, qnext: Run
) -> None:
    done = run("quantize", source, tmp_path / "out", "--group-size", "32")
    assert done.returncode == 0
    for phrase in ("model → 4bit", "relative error", "lost most", f"qnext chat --model {tmp_path / 'out'}"):
        assert phrase in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    verified = qnext("inspect", tmp_path / "out", "--verify", "--json")
    facts = json.loads(verified.stdout)
    assert facts["verified"] > 100
    assert (facts["source"], facts["recipe"]) == ("model", "4bit")


def test_a_dry_run_tells_the_same_sizes_and_makes_nothing(source: Path, tmp_path: Path, qnext: Run) -> None:
    told = qnext("quantize", source, tmp_path / "out", "--bits", "8", "--group-size", "32", "--dry-run")
    assert told.returncode == 0
    assert "lost most" not in told.stdout
    assert not list(tmp_path.iterdir())
    made = qnext("quantize", source, tmp_path / "out", "--bits", "8", "--group-size", "32")
    assert made.stdout.startswith(told.stdout)


def test_a_recipe_of_ones_own_is_read(source: Path, tmp_path: Path, qnext: Run) -> None:
    (tmp_path / "mine.toml").write_text(
        'bits = 5\ngroup_size = 32\n[[rules]]\nmatch = "lm_head"\nkeep = true\n'
    )
    done = qnext("quantize", source, tmp_path / "out", "--recipe", tmp_path / "mine.toml")
    assert done.returncode == 0
    assert "5-bit g32" in done.stdout
    assert "bf16" in done.stdout


def test_what_was_lost_is_measured_on_a_text_of_ones_own(
    bf16_checkpoint: Path, tmp_path: Path, qnext: Run
) -> None:
    (tmp_path / "text.txt").write_text("What is 47 + 85? Sort these numbers: 5, 3, 8. " * 3)
    done = qnext("quantize", bf16_checkpoint, tmp_path / "out", "--evaluate-on", tmp_path / "text.txt")
    assert done.returncode == 0
    assert "KL divergence" in done.stdout
    quality = json.loads((tmp_path / "out" / "qnext.json").read_text())["quality"]
    assert 0 < quality["kl"] < 1
    assert "KL divergence" in (tmp_path / "out" / "README.md").read_text()


MISTAKES: dict[str, tuple[Sequence[str], int, str]] = {
    "bits that no recipe has": (["--bits", "7"], 2, "--bits is 7"),
    "bits and a recipe": (["--bits", "4", "--recipe", "3bit"], 2, "give one of them"),
    "a group size that MLX has not": (["--group-size", "48"], 2, "--group-size is 48"),
    "a recipe that is none": (["--recipe", "7bit"], 2, "mixed-3-4"),
    "a group size too large": (["--group-size", "128"], 2, "128 do not divide"),
    "a text that is not there": (["--group-size", "32", "--evaluate-on", "nowhere.txt"], 2, "nowhere.txt"),
    "a head for what is not quantised": (["--mtp-from", "demo"], 2, "is not quantised"),
}


@pytest.mark.parametrize("row", MISTAKES)
def test_a_mistake_is_one_line_its_exit_code_and_no_trace(
    row: str, source: Path, tmp_path: Path, qnext: Run
) -> None:
    arguments, code, phrase = MISTAKES[row]
    done = qnext("quantize", source, tmp_path / "out", *arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert phrase in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_was_not_made_here_cannot_be_verified(source: Path, qnext: Run) -> None:
    done = qnext("inspect", source, "--verify")
    assert done.returncode == 2
    assert "nothing to verify" in done.stderr


INTERRUPTED = """
import os, signal
import cli.main, quantize.convert as c
c._TASK_BYTES = c._RECORD_EVERY_BYTES = 1
begin, convert, running, told = c._Conversion.__init__, c.convert_piece, [], []

def beginning(self, *args):
    running.append(self)
    begin(self, *args)

def interrupting(*args):
    told.append(0)
    if len(told) == 20:
        os.kill(os.getpid(), signal.SIGINT)
        running[0]._stopped.wait()
    return convert(*args)

c._Conversion.__init__, c.convert_piece = beginning, interrupting
cli.main.main()
"""


def test_an_interrupt_says_how_to_go_on(source: Path, tmp_path: Path, qnext: Run) -> None:
    arguments = ["quantize", str(source), str(tmp_path / "out"), "--group-size", "32"]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 130
    assert "run the same command to go on" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    assert qnext(*arguments).returncode == 0
