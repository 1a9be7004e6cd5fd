"""`qnext chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console

from cli import options, terminal
from cli.answering import answer
from cli.conversation import Conversation
from cli.loading import EMBEDDED, load_engine
from cli.views.answer import AnswerView
from cli.views.stats import stats_line
from mlx_qnext.errors import ContextLengthError, TokenizerError
from mlx_qnext.generate.request import GenerationConfig

if TYPE_CHECKING:
    from mlx_qnext import Session

PROMPT = "› "


def chat(
    model: options.Model = None,
    system: options.System = None,
    thinking: options.ShowThinking = options.Thinking.show,
    no_think: options.NoThink = False,
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
) -> None:
    """Talk with the model; it remembers the conversation. Ctrl-C stops an answer, Ctrl-D leaves."""
    sampling: options.Sampling = {
        "temperature": temp,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "seed": seed,
    }
    config = options.request(sampling, max_tokens=max_tokens, stop=stop, no_think=no_think, draft=draft)
    out, err = terminal.out(), terminal.err()
    engine = load_engine(model, err)
    typed = terminal.stdin_is_terminal()
    if typed:
        err.print(f"{model or EMBEDDED} · /help lists the commands, Ctrl-D leaves\n", style="dim")
    conversation = Conversation(system, show_thinking=thinking is options.Thinking.show)
    session = engine.session()
    for line in _typed_lines(err) if typed else sys.stdin:
        action, text = conversation.read(line)
        if action == "quit":
            return
        if action == "say":
            err.print(text, style="dim")
        elif text:
            _exchange(session, conversation, text, config, out, err)


def _exchange(
    session: Session,
    conversation: Conversation,
    text: str,
    config: GenerationConfig,
    out: Console,
    err: Console,
) -> None:
    """Ask, show the answer, remember both; what cannot be asked is said and forgotten."""
    view = AnswerView(out, err, show_thinking=conversation.show_thinking)
    try:
        result = answer(session, conversation.question(text), config, err, view)
    except (ContextLengthError, TokenizerError) as error:
        err.print(str(error), style="red")
        return
    conversation.answered(text, result)
    err.print(f"{stats_line(result)}\n", style="dim")


def _typed_lines(err: Console) -> Iterator[str]:
    """Lines from a person; an interrupt drops the line, a second one in a row leaves."""
    # Importing it is what gives `input` editing keys and history.
    import readline  # noqa: F401

    interrupted = False
    while True:
        try:
            line = input(PROMPT)
        except EOFError:
            err.print()
            return
        except KeyboardInterrupt:
            if interrupted:
                err.print()
                return
            interrupted = True
            err.print("\nCtrl-C again, or Ctrl-D, leaves.", style="dim")
            continue
        interrupted = False
        yield line
