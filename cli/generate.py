"""`qnext generate`: one prompt, one answer, for people and for scripts."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cli import options, terminal
from cli.answering import answer
from cli.asked import Asked
from cli.loading import EMBEDDED, load_engine
from cli.output_file import check_output, write_output
from cli.record import record
from cli.settings import Settings
from cli.views.answer import AnswerView
from cli.views.stats import print_stats
from cli.views.status import Setting
from cli.views.thought import Thinking
from mlx_qnext.errors import INTERRUPTED_EXIT_CODE, OutputError
from mlx_qnext.generate.events import Finished

_STDOUT = Path("-")


def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="The prompt; - or nothing reads it from stdin. Beside a prompt, what is piped in is what it is about, and is "
            "waited for: where stdin stays open, as in a loop of a script, add </dev/null."
        ),
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Option(
            "--file", "-f", metavar="<file>", help="A text file that the prompt is about; repeatable."
        ),
    ] = None,
    model: options.Model = None,
    system: options.System = None,
    thinking: options.ShowThinking = Thinking.show,
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
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="<file>",
            help="Write the answer into this file instead, which is replaced by a whole answer or stays as it is; - is stdout.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Answer one prompt. The answer goes to stdout, the thought and the figures to stderr."""
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
    asked = Asked.read(prompt, files or ())
    if output == _STDOUT:
        output = None
    if output is not None:
        check_output(output)
    err = terminal.err()
    engine = load_engine(model, err, room)
    setting = Setting(model or EMBEDDED, engine.plan.context_tokens)
    # What goes into a file is not on stdout too, not even in part.
    out = terminal.out() if output is None else Console(file=StringIO())
    view = None if as_json else AnswerView(out, err, thinking, setting=setting)
    with asked.measured(lambda text: len(engine.tokenizer.encode(text)), engine.plan.context_tokens):
        result = answer(engine.session(), _messages(system, asked.message), config, err, view)
    if as_json:
        _hand_over(record(result, model or EMBEDDED), output, result, err)
    elif output is not None:
        _hand_over(result.text, output, result, err)
    _conclude(result, setting, err, as_json=as_json)


def _hand_over(text: str, output: Path | None, result: Finished, err: Console) -> None:
    """The text is in the file, where there is one and the answer was not broken off, or else on stdout.

    Raises:
        OutputError: the file cannot be written; the text is on stdout.
    """
    if output is None:
        typer.echo(text)
    elif result.reason == "cancelled":
        typer.echo(text)
        terminal.note(err, f"{output} is as it was: the answer was broken off.")
    else:
        try:
            write_output(output, f"{text}\n")
        except OutputError:
            typer.echo(text)
            raise


def _conclude(result: Finished, setting: Setting, err: Console, *, as_json: bool) -> None:
    """Say how it went, and exit as that asks for."""
    if not as_json:
        print_stats(err, result, setting)
    elif result.reason == "length":
        cut = "thought" if result.thought_end == "unclosed" else "answer"
        terminal.note(err, f"The {cut} is cut off at the token limit.")
    if result.reason == "cancelled":
        raise typer.Exit(INTERRUPTED_EXIT_CODE)


def _messages(system: str | None, prompt: str) -> list[dict[str, Any]]:
    leading = [{"role": "system", "content": system}] if system else []
    return [*leading, {"role": "user", "content": prompt}]
