"""`qnext batch`: a file of prompts, a file of answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options, terminal
from cli.batch_input import Entry, entries
from cli.batch_output import Printed, Results, check_same_batch, result_file
from cli.batch_record import answer_record, error_record
from cli.loading import EMBEDDED, load_engine
from cli.settings import Settings
from cli.views.batch import BatchCount, BatchView
from mlx_qnext.errors import INTERRUPTED_EXIT_CODE, OutputError, QnextError, UsageError
from mlx_qnext.generate.batch_request import BatchRequest, BatchResult

if TYPE_CHECKING:
    from rich.console import Console

    from mlx_qnext import Engine

SOME_FAILED_EXIT_CODE = 12

_STREAM = "-"


def batch(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="JSON lines, or a prompt a line; - reads them from stdin.")
    ],
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="<file>", help="Where results go; - is stdout.")
    ] = _STREAM,
    concurrency: Annotated[
        int,
        typer.Option(
            "--concurrency",
            "-n",
            help="How many answers are decoded together, at most; with more than 1 nothing is drafted.",
        ),
    ] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --out: answer what it has no results of.")
    ] = False,
    model: options.Model = None,
    system: options.System = None,
    no_think: options.NoThink = False,
    think_budget: options.ThinkBudget = None,
    temp: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    presence_penalty: options.PresencePenalty = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    stop: options.Stop = None,
    draft: options.Draft = "auto",
    memory: options.Memory = "auto",
    context: options.Context = "auto",
    kv_bits: options.KvBits = 16,
    when_full: options.WhenContextIsFull = "stop",
) -> None:
    """Answer every line of IN: {"id", "prompt"} or {"id", "messages"}, with temperature, top_p, top_k, min_p,
    repetition_penalty, presence_penalty, seed, max_tokens, thinking, thinking_budget, stop or tools where a line wants its own.

    Results are JSON lines in the order in which they finish. A line that cannot be answered gets an error in its place.
    Stopped at any moment, the same command with --resume goes on."""
    settings = Settings(
        model=model,
        no_think=no_think,
        think_budget=think_budget,
        temp=temp,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        seed=seed,
        max_tokens=max_tokens,
        stop=tuple(stop or ()),
        draft=draft,
        context=context,
        kv_bits=kv_bits,
        when_full=when_full,
    )
    room, config = settings.room(memory), settings.request()
    if concurrency < 1:
        raise UsageError(f"--concurrency is {concurrency}, expected at least 1.")
    err = terminal.err()
    if concurrency > 1 and config.draft:
        terminal.note(
            err, "Answers that are decoded together are not drafted: --draft counts for nothing here."
        )
    if out != _STREAM and source != _STREAM and _are_one_file(source, out):
        raise UsageError(f"{out} is the input itself: name another file for the results.")
    asked = entries(_content(source), "stdin" if source == _STREAM else source, system, config)
    with _results(out, resume) as results:
        strangers = check_same_batch(results.done, asked, Path(out))
        if strangers:
            terminal.note(err, _unasked(strangers, out, source))
        view = BatchView(err, shows=not _is_watched(out))
        job = _Job(asked, results, model or EMBEDDED, view, err)
        try:
            with view:
                job.run(lambda: load_engine(model, err, room), concurrency)
        except KeyboardInterrupt:
            terminal.note(err, _stopped(job.count, out))
            raise typer.Exit(INTERRUPTED_EXIT_CODE) from None
        except OutputError:
            # It says itself how to go on.
            raise
        except QnextError:
            if job.count.done:
                terminal.note(err, _stopped(job.count, out))
            raise
    terminal.note(err, view.outcome(job.count))
    if job.count.noticed:
        terminal.note(err, _noticed(job.count.noticed))
    if job.count.all_failed:
        raise typer.Exit(SOME_FAILED_EXIT_CODE)


class _Job:
    """The lines of one batch, and what became of them."""

    def __init__(
        self, asked: Sequence[Entry], results: Results, model: str, view: BatchView, err: Console
    ) -> None:
        self._results, self._model, self._view, self._err = results, model, view, err
        self._waiting = [entry for entry in asked if not results.done.holds(entry)]
        failed = sum((entry.line, entry.id) in results.done.failed for entry in asked)
        self.count = BatchCount(len(asked), len(asked) - len(self._waiting), failed)

    def run(self, load: Callable[[], Engine], concurrency: int) -> None:
        """Every line that lacks a record has one."""
        requests: list[tuple[Entry, BatchRequest]] = []
        for entry in self._waiting:
            if isinstance(entry.asked, str):
                self._fail(entry, entry.asked)
            else:
                requests.append((entry, entry.asked))
        if not requests:
            return
        engine = load()
        # Loads the model's code, which bad lines alone need not wait for.
        from mlx_qnext.generate.batch import run_batch

        self._view.begin(self.count, concurrency)
        numbered = ((number, request) for number, (_, request) in enumerate(requests))
        for event in run_batch(engine, numbered, concurrency):
            if isinstance(event, BatchResult):
                self._take(*requests[event.number], event)
            else:
                terminal.note(self._err, event.message)

    def _take(self, entry: Entry, request: BatchRequest, result: BatchResult) -> None:
        outcome = result.outcome
        if isinstance(outcome, QnextError):
            self._fail(entry, str(outcome))
            return
        tools = bool(request.tools)
        self._results.write(answer_record(entry, outcome, result.notices, self._model, tools=tools))
        self.count.answered += 1
        self.count.noticed += bool(result.notices)
        self.count.prompt_tokens += outcome.stats.prompt_tokens
        self.count.cached_tokens += outcome.stats.cached_tokens
        self.count.completion_tokens += outcome.stats.completion_tokens
        self._view.update(self.count)

    def _fail(self, entry: Entry, reason: str) -> None:
        self._results.write(error_record(entry, reason))
        self.count.failed += 1
        self._view.update(self.count)


def _content(source: str) -> bytes:
    """All of the input.

    Raises:
        UsageError: there is none that can be read.
    """
    if source == _STREAM:
        if terminal.stdin_is_terminal():
            raise UsageError("There is no input: name a file, or pipe lines in.")
        return sys.stdin.buffer.read() if sys.stdin is not None else b""
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise UsageError(f"{source} cannot be read ({error.strerror}): name a file of prompts.") from None


@contextmanager
def _results(out: str, resume: bool) -> Iterator[Results]:
    if out != _STREAM:
        with result_file(Path(out), resume) as file:
            yield file
    elif resume:
        raise UsageError("--resume goes on with a file of results: name it with --out.")
    else:
        yield Printed()


def _are_one_file(source: str, out: str) -> bool:
    try:
        return Path(source).samefile(out)
    except OSError:
        # One of the two is not there, which is said elsewhere.
        return False


def _unasked(count: int, out: str, source: str) -> str:
    answers = "1 answer is" if count == 1 else f"{count} answers are"
    return f"In {out} {answers} of no line of {source}, and left as they are."


def _noticed(count: int) -> str:
    have = "1 answer has" if count == 1 else f"{count} answers have"
    return f"{have} notices in the record: a limit was met, or messages were left out."


def _is_watched(out: str) -> bool:
    """Whether the results themselves pass before somebody's eyes."""
    return out == _STREAM and terminal.out().is_terminal


def _stopped(count: BatchCount, out: str) -> str:
    said = f"Stopped: {count.done} of {count.total} done"
    if out == _STREAM or not count.done:
        return f"{said}."
    return f"{said}, and {out} holds them: run the same command with --resume to go on."
