"""`qnext generate`: one prompt, one answer, for people and for scripts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli import options, terminal
from cli.answering import answer
from cli.loading import EMBEDDED, load_engine
from cli.piped import piped_text
from cli.record import record
from cli.views.answer import AnswerView
from cli.views.stats import print_stats
from cli.views.status import Setting
from cli.views.thought import Thinking
from mlx_qnext.errors import INTERRUPTED_EXIT_CODE, UsageError


def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt; - or nothing reads it from stdin.")
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Answer one prompt. The answer goes to stdout, the thought and the figures to stderr."""
    sampling: options.Sampling = {
        "temperature": temp,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "seed": seed,
    }
    room = options.room(memory, context, kv_bits)
    config = options.request(
        sampling,
        max_tokens=max_tokens,
        stop=stop,
        no_think=no_think,
        think_budget=think_budget,
        draft=draft,
        when_full=when_full,
    )
    messages = _messages(system, _prompt(prompt))
    out, err = terminal.out(), terminal.err()
    engine = load_engine(model, err, room)
    setting = Setting(model or EMBEDDED, engine.plan.context_tokens)
    view = None if as_json else AnswerView(out, err, thinking, setting=setting)
    result = answer(engine.session(), messages, config, err, view)
    if as_json:
        typer.echo(record(result, model or EMBEDDED))
    else:
        print_stats(err, result, setting)
    if result.reason == "cancelled":
        raise typer.Exit(INTERRUPTED_EXIT_CODE)


def _prompt(argument: str | None) -> str:
    if argument is None and terminal.stdin_is_terminal():
        raise UsageError('There is no prompt: write one, as in qnext generate "Hello", or pipe one in.')
    text = piped_text() if argument in (None, "-") else argument
    if text is None or not text.strip():
        raise UsageError("The prompt is empty: write what the model should answer.")
    return text


def _messages(system: str | None, prompt: str) -> list[dict[str, Any]]:
    leading = [{"role": "system", "content": system}] if system else []
    return [*leading, {"role": "user", "content": prompt}]
