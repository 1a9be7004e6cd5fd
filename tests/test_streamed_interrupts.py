"""Ctrl-C and other ends while experts are read: the documented exit code, no noise, and no thread that holds the program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from pooled import DEMO, pooled

import mlx_qnext
import mlx_qnext.generate.engine as engine_module
from mlx_qnext.errors import CheckpointError

PROGRAM = [sys.executable, str(Path(__file__).with_name("streamed_program.py"))]
ROOT = Path(__file__).parent.parent
GENERATE = ["generate", "What is 47 + 85?", "--model", "demo", "--temp", "0", "--max-tokens", "3"]
CHAT = ["chat", "--model", "demo", "--temp", "0", "--max-tokens", "3"]


def run(what: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The program, which ends within a minute, and says nothing that is not meant for the user."""
    done = subprocess.run(
        [*PROGRAM, what, *arguments],
        cwd=ROOT,
        env=_environment(),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )
    for noise in ("Traceback", "Exception", "Error", "Warning"):
        assert noise not in done.stdout + done.stderr
    return done


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(
    ("what", "stopped"),
    [
        ("an answer interrupted", True),
        pytest.param("a prompt interrupted", True, marks=pytest.mark.slow),
        pytest.param("an answer interrupted twice", False, marks=pytest.mark.slow),
        pytest.param("reading interrupted twice", False, marks=pytest.mark.slow),
        pytest.param("loading interrupted", False, marks=pytest.mark.slow),
        ("filling, and an answer interrupted twice", False),
        pytest.param("filling, and an answer interrupted", True, marks=pytest.mark.slow),
    ],
)
def test_an_interrupt_ends_it_with_130_and_only_the_first_keeps_what_was_said(
    what: str, stopped: bool
) -> None:
    done = run(what, *GENERATE)
    assert done.returncode == 130
    assert ("stopped" in done.stderr) == stopped


def test_the_program_ends_while_the_background_still_fills() -> None:
    done = run("filling", *GENERATE)
    assert done.returncode == 0
    assert "cut off at the token limit" in done.stderr


def test_a_visit_that_never_ends_does_not_keep_the_background_from_ending() -> None:
    with pooled(DEMO, 32) as streamed:
        pool = next(iter(streamed.store.pools.values()))
        waves = pool.serve(np.arange(4)[None])
        assert isinstance(waves, Generator)
        next(waves)
        streamed.store.fill({})
        closing = threading.Thread(target=streamed.store.close, daemon=True)
        closing.start()
        closing.join(30)
        still_closing = closing.is_alive()
        waves.close()
        assert not still_closing
        with pytest.raises(CheckpointError, match="closed"):
            list(pool.serve(np.arange(8)[None]))


def test_a_model_that_is_closed_answers_with_one_sentence() -> None:
    closed = mlx_qnext.load("demo")
    closed.store.shrink(0.8, 4)
    closed.close()
    with pytest.raises(CheckpointError, match="closed, and its experts are read no more: load it again"):
        list(closed.session().generate([{"role": "user", "content": "hi"}]))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["a prompt interrupted", "an answer interrupted"])
def test_a_piped_chat_ends_with_130_where_it_is_interrupted(what: str) -> None:
    done = run(what, *CHAT, stdin="What is 47 + 85?\nAnd plus 10?\n")
    assert done.returncode == 130
    assert done.stderr.count("stopped") >= 1


@pytest.mark.slow
def test_being_terminated_ends_it_at_once_and_without_a_word() -> None:
    command = [*PROGRAM, "waiting for a signal", *GENERATE]
    running = subprocess.Popen(command, cwd=ROOT, env=_environment(), stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    while "waiting" not in running.stderr.readline():
        pass
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == -signal.SIGTERM
    assert errors == ""


def test_a_model_may_be_forgotten_in_a_thread_that_reads_its_weights() -> None:
    """The garbage collector runs in any thread; closing the model there would wait for that very thread."""
    engine = mlx_qnext.load("demo")
    reading = engine.store._reader._threads
    reading.submit(engine_module._retire_elsewhere, engine.store, engine.key).result(timeout=60)
    for thread in threading.enumerate():
        if thread.name == "qnext-retire":
            thread.join(timeout=60)
            assert not thread.is_alive()
    with pytest.raises(RuntimeError):
        reading.submit(print)
    engine.close()
