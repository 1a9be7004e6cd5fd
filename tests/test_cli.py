"""The program as people and scripts meet it: streams, exit codes, interrupts, conversations."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from fakes.engine import STATS, SUM, ScriptedSession, finished
from fakes.engine import answer as answered
from piped import stdin_of
from program import PROGRAM, ROOT, environment, start

import mlx_qnext
from cli.answering import answer
from cli.conversation import Conversation
from cli.interrupts import cancelling
from cli.main import main
from cli.record import record
from cli.terminal import err, out
from cli.views.answer import AnswerView
from cli.views.thought import Thinking
from mlx_qnext import Engine
from mlx_qnext.generate.events import Event, ExpertActivity, ExpertStats, Finished, MemoryStats, Notice
from mlx_qnext.generate.request import GenerationConfig

Run = Callable[..., subprocess.CompletedProcess[str]]
LONG = "Sort these numbers from smallest to largest: 91, 17, 48, 63, 5, 77, 32"


def run(*arguments: str, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]:
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        [*PROGRAM, *arguments], cwd=ROOT, env=environment(), input=data, capture_output=True
    )
    out, errors = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, out, errors)


def test_the_answer_is_on_stdout_and_everything_else_on_stderr() -> None:
    done = run("generate", "What is 47 + 85?", "--temp", "0")
    assert done.returncode == 0
    assert "132" in done.stdout
    assert "carry" not in done.stdout
    assert "carry" in done.stderr
    assert "embedded" in done.stderr
    assert "tok/s" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_json_is_one_object_with_these_keys(qnext: Run) -> None:
    done = qnext("generate", "-", "--json", "--no-think", "--temp", "0", stdin=b"What is 47 + 85?")
    result = json.loads(done.stdout)
    assert set(result) == {
        "text",
        "thinking",
        "finish_reason",
        "thought_end",
        "usage",
        "speed",
        "forecast",
        "mtp",
        "experts",
        "memory",
        "model",
    }
    assert set(result["usage"]) == {"prompt_tokens", "cached_tokens", "completion_tokens"}
    assert set(result["speed"]) == {"ttft_ms", "prefill_tps", "decode_tps"}
    assert "132" in result["text"]
    assert (result["finish_reason"], result["model"]) == ("stop", "demo")


def test_json_says_where_experts_came_from_and_what_memory_was_used() -> None:
    experts = ExpertStats(2, 1, 300, 0, 1000, 4000)
    stats = replace(STATS, experts=experts, memory=MemoryStats(8_000, 7_500))
    said = json.loads(record(finished(stats=stats), "thinking-4bit"))
    assert said["experts"] == {
        "hits": 2,
        "misses": 1,
        "hit_rate": 0.6667,
        "read_bytes": 300,
        "resident_bytes": 1000,
        "evicted": 0,
    }
    assert said["memory"] == {"planned_bytes": 8_000, "peak_bytes": 7_500}
    plain = json.loads(record(finished(), "demo"))
    assert (plain["experts"], plain["memory"]) == (None, None)


def test_shares_of_nothing_are_whole() -> None:
    nothing = ExpertStats(0, 0, 0, 0, 0, 0)
    assert (nothing.hit_rate, nothing.resident_share) == (1.0, 1.0)


@pytest.mark.parametrize("depth", ["0", "3"])
def test_json_says_what_a_fixed_depth_came_to(depth: str, qnext: Run) -> None:
    greedy = ("--json", "--temp", "0", "--max-tokens", "24")
    result = json.loads(qnext("generate", "What is 47 + 85?", *greedy, "--draft", depth).stdout)
    mtp = result["mtp"]
    if depth == "0":
        assert mtp is None
        return
    assert set(mtp) == {"rounds", "drafted", "accepted", "acceptance", "tokens_per_step", "speedup_estimate"}
    assert mtp["drafted"] == 3 * mtp["rounds"] > 0
    assert len(mtp["acceptance"]) == 3
    assert mtp["tokens_per_step"] > 1.5
    assert mtp["speedup_estimate"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "phrase"),
    [
        (["generate", "hi", "--temp", "-1"], 2, "temperature"),
        (["generate", "hi", "--draft", "5"], 2, "auto or a number from 0 to 4"),
        (["generate", "  "], 2, "empty"),
        (["generate", "hi", "--model", "./nowhere"], 3, "nowhere"),
        (["inspect", "thinking-4bits"], 3, "thinking-4bit"),
    ],
)
def test_a_mistake_is_one_line_and_its_exit_code(
    arguments: Sequence[str], code: int, phrase: str, qnext: Run
) -> None:
    done = qnext(*arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("qnext: ")
    assert phrase in done.stderr


def test_a_prompt_that_is_not_text_is_refused() -> None:
    done = run("generate", "-", stdin=b"\xff\xfe")
    assert (done.returncode, done.stdout) == (2, "")
    assert "UTF-8" in done.stderr


def test_an_interrupt_keeps_what_was_said() -> None:
    running = start("generate", LONG, "--temp", "0")
    assert running.stderr is not None
    while b"thinking\n" not in running.stderr.readline():
        pass
    said = running.stderr.read(1)
    running.send_signal(signal.SIGINT)
    out, errors = running.communicate()
    assert said.strip()
    assert running.returncode == 130
    assert b"stopped" in errors
    assert b"Traceback" not in out + errors


class _Interrupted(ScriptedSession):
    """Interrupted from the keyboard while it answers; it ends when it is told to, as a session does."""

    def generate(self, messages: Sequence[Any], config: GenerationConfig) -> Iterator[Event]:
        yield SUM[3]
        signal.raise_signal(signal.SIGINT)
        assert self.cancelled
        yield finished("It is", reason="cancelled")

    def session(self) -> _Interrupted:
        return self


def test_json_interrupted_is_still_one_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cli.generate.load_engine", lambda *arguments: _Interrupted())
    monkeypatch.setattr(sys, "stdin", None)
    assert exit_code(monkeypatch, "generate", "hi", "--json") == 130
    result = json.loads(capsys.readouterr().out)
    assert (result["finish_reason"], result["text"]) == ("cancelled", "It is")


def test_a_piped_chat_ends_where_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cli.chat.load_engine", lambda *arguments: _Interrupted())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"first\nsecond\n")))
    assert exit_code(monkeypatch, "chat") == 130
    assert capsys.readouterr().err.count("stopped") == 1


def exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """What the program exits with, run in this process on whatever was put in its place."""
    monkeypatch.setattr(sys, "argv", ["qnext", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code


@pytest.fixture
def qnext(engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The program in this process, where the embedded model is loaded already."""
    load = mlx_qnext.load
    monkeypatch.setattr(mlx_qnext, "load", lambda model, **o: engine if model == "demo" else load(model, **o))
    monkeypatch.delenv("QNEXT_MODEL", raising=False)

    def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        with stdin_of(stdin):
            code = exit_code(monkeypatch, *arguments)
        assert isinstance(code, int)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


def test_a_second_interrupt_is_not_swallowed_and_the_old_handler_comes_back() -> None:
    before, session = signal.getsignal(signal.SIGINT), ScriptedSession()
    with cancelling(session):  # pyright: ignore[reportArgumentType]
        signal.raise_signal(signal.SIGINT)
        assert session.cancelled
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_reader_that_leaves_early_ends_the_program_quietly() -> None:
    reading, writing = os.pipe()
    running = start("generate", "Who are you?", "--temp", "0", "--no-think", stdout=writing)
    os.close(reading)
    os.close(writing)
    _, errors = running.communicate()
    assert running.returncode == 1
    assert b"Traceback" not in errors
    assert b"Exception" not in errors


def test_help_loads_neither_model_nor_library() -> None:
    code = (
        "import sys\nsys.argv = ['qnext', '--help']\n"
        "from cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'mlx', 'mlx_lm', 'transformers', 'huggingface_hub', 'tokenizers', 'jinja2', 'numpy', 'prompt_toolkit'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded: []\n")
    assert "generate" in done.stdout


def test_inspect_tells_what_the_embedded_model_is_without_reading_weights(
    qnext: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlx_qnext, "load", lambda *_, **__: pytest.fail("loaded"))
    facts = json.loads(qnext("inspect", "--json").stdout)
    assert {"path", "architecture", "parameters", "bytes", "quantization", "mtp"} <= set(facts)
    assert facts["architecture"] == "qwen3_next"
    assert facts["mtp"] is True
    assert set(facts["parameters"]) == {"total", "active"}
    assert {"total", "experts", "attention", "recurrent", "embeddings", "mtp"} <= set(facts["bytes"])
    assert facts["bytes"]["total"] == sum(v for k, v in facts["bytes"].items() if k != "total") <= 16e6


def test_a_piped_chat_remembers_its_turns_and_writes_plain_text() -> None:
    done = run("chat", "--temp", "0", stdin="What is 47 + 85?\nAnd plus 10?\n")
    assert done.returncode == 0
    assert "132" in done.stdout
    assert "142" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_a_piped_chat_prints_one_object_an_answer_when_asked_for_json(qnext: Run) -> None:
    lines = b"What is 47 + 85?\n\nAnd plus 10?\n/quit\nnever asked\n"
    done = qnext("chat", "--temp", "0", "--json", stdin=lines)
    first, second = map(json.loads, done.stdout.splitlines())
    assert "132" in first["text"]
    assert "142" in second["text"]
    assert second["usage"]["cached_tokens"] > 0


def test_a_piped_chat_ends_at_a_line_that_is_not_text(qnext: Run) -> None:
    done = qnext("chat", stdin=b"\xff\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert "UTF-8" in done.stderr


def test_a_closed_stdin_is_no_prompt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert exit_code(monkeypatch, "generate") == 2
    assert "stdin is closed" in capsys.readouterr().err


def test_a_closed_stdin_is_no_obstacle_to_an_argument() -> None:
    command = [*PROGRAM, "generate", "What is 47 + 85?", "--temp", "0", "--no-think"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, preexec_fn=partial(os.close, 0)
    )
    assert done.returncode == 0
    assert b"132" in done.stdout


def test_what_the_encoding_lacks_is_replaced_and_the_answer_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="latin-1"))
    monkeypatch.setattr("cli.generate.load_engine", lambda *arguments: _Japanese())
    monkeypatch.setattr(sys, "stdin", None)
    assert exit_code(monkeypatch, "generate", "hi") == 0
    assert written.getvalue() == b"?? sushi\n"


class _Japanese(ScriptedSession):
    def generate(self, messages: Sequence[Any], config: GenerationConfig) -> Iterator[Event]:
        return iter((answered("寿司 sushi"), finished("寿司 sushi")))

    def session(self) -> _Japanese:
        return self


def test_an_answer_comes_back_finished_and_its_notes_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    result = answer(ScriptedSession(SUM), [], GenerationConfig(), err(), None)  # pyright: ignore[reportArgumentType]
    assert isinstance(result, Finished)
    note = SUM[0]
    assert isinstance(note, Notice)
    assert note.message in capsys.readouterr().err


def test_experts_that_are_read_go_to_the_view_and_nowhere_else(capsys: pytest.CaptureFixture[str]) -> None:
    read = ExpertActivity(ExpertStats(2, 1, 300, 0, 1000, 4000))
    events = (read, *SUM[3:5], read, *SUM[5:])
    view = AnswerView(out(), err(), Thinking.show)
    for each in (view, None):
        answer(ScriptedSession(events), [], GenerationConfig(), err(), each)  # pyright: ignore[reportArgumentType]
    shown = capsys.readouterr()
    assert shown.out == "It is 132.\n"
    assert "experts" not in shown.err


def test_a_conversation_remembers_questions_answers_and_thoughts() -> None:
    conversation = Conversation("Be brief.", Thinking.show)
    conversation.answered(conversation.question("What is 47 + 85?"), finished("132", "carry"))
    assert conversation.prompt(conversation.question("And plus 10?")) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 47 + 85?"},
        {"role": "assistant", "content": "132", "reasoning_content": "carry"},
        {"role": "user", "content": "And plus 10?"},
    ]


def test_a_question_stopped_before_the_first_word_is_forgotten() -> None:
    conversation = Conversation(None, Thinking.collapse)
    question = conversation.question("a")
    assert not conversation.answered(question, finished("", reason="cancelled"))
    assert conversation.messages == []
    assert conversation.answered(question, finished("It", reason="cancelled"))
    assert len(conversation.messages) == 2
