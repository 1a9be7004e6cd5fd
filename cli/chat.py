"""`qnext chat`: a conversation, in the terminal or through a pipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cli import options, terminal
from cli.answering import answer
from cli.conversation import Conversation
from cli.keyboard import typed_turns, unechoed
from cli.loading import EMBEDDED, load_engine
from cli.piped import piped_lines
from cli.record import record
from cli.views.answer import AnswerView
from cli.views.stats import stats_line
from cli.views.thought import Thinking
from mlx_qnext.errors import (
    INTERRUPTED_EXIT_CODE,
    CheckpointError,
    ContextLengthError,
    QnextError,
    TokenizerError,
)
from mlx_qnext.generate.events import Finished
from mlx_qnext.generate.request import GenerationConfig

if TYPE_CHECKING:
    from mlx_qnext import Session

# After these the next question may be answered: the model is as it was, and a disk that went away may be back.
_PASSING: tuple[type[QnextError], ...] = (CheckpointError, ContextLengthError, TokenizerError)


def chat(
    model: options.Model = None,
    system: options.System = None,
    thinking: options.ShowThinking = Thinking.fold,
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
    memory: options.Memory = "auto",
    context: options.Context = "auto",
    kv_bits: options.KvBits = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object an answer instead.")] = False,
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
    room = options.room(memory, context, kv_bits)
    config = options.request(sampling, max_tokens=max_tokens, stop=stop, no_think=no_think, draft=draft)
    err = terminal.err()
    session = load_engine(model, err, room).session()
    talk = _Talk(
        session, Conversation(system, thinking), config, err, (model or EMBEDDED) if as_json else None
    )
    if terminal.stdin_is_terminal():
        _in_terminal(talk, model or EMBEDDED)
    else:
        _through_pipe(talk)


@dataclass(frozen=True)
class _Talk:
    """A session and what is said in it; `json_model` names the model where answers are printed as JSON."""

    session: Session
    conversation: Conversation
    config: GenerationConfig
    err: Console
    json_model: str | None

    def turn(self, line: str) -> Finished | None:
        """Do what one text from the user asks for; `None` where that needs no answer.

        Raises:
            EOFError: it asks to leave. ContextLengthError, TokenizerError: it cannot be asked.
            CheckpointError: an expert cannot be read. The question is forgotten, and what was said before it is not.
        """
        action, text = self.conversation.read(line)
        if action == "quit":
            raise EOFError
        if action == "say":
            terminal.note(self.err, text)
        return self._exchange(text) if action == "ask" and text else None

    def _exchange(self, text: str) -> Finished:
        view = None
        if self.json_model is None:
            view = AnswerView(terminal.out(), self.err, self.conversation.thinking)
        result = answer(self.session, self.conversation.question(text), self.config, self.err, view)
        if self.json_model is not None:
            typer.echo(record(result, self.json_model))
        else:
            terminal.note(self.err, stats_line(result))
        if not self.conversation.answered(text, result):
            terminal.note(self.err, "Stopped before the first word: the question is forgotten.")
        self.err.print()
        return result


def _in_terminal(talk: _Talk, model: str) -> None:
    terminal.note(talk.err, f"{model} · /help lists the commands, Ctrl-D leaves\n")
    for text in typed_turns(talk.err):
        try:
            with unechoed():
                talk.turn(text)
        except _PASSING as error:
            talk.err.print(str(error), style="red", soft_wrap=False)
        except EOFError:
            return


def _through_pipe(talk: _Talk) -> None:
    """Every line is a turn; the first that fails or is interrupted ends the program with its exit code."""
    for line in piped_lines():
        try:
            result = talk.turn(line)
        except EOFError:
            return
        if result is not None and result.reason == "cancelled":
            raise typer.Exit(INTERRUPTED_EXIT_CODE)
