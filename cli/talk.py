"""One chat while it lasts: what becomes of each text that the user sends."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import typer
from rich.console import Console, RenderableType

from cli import terminal
from cli.answering import answer
from cli.commands import Action, Ask, Clear, Leave, ListSaved, Load, Nothing, Save, Say, read
from cli.conversation import Conversation
from cli.keeping import Keeping
from cli.reading_ahead import reading_ahead
from cli.record import record
from cli.views.answer import AnswerView
from cli.views.stats import print_stats
from cli.views.status import Setting
from mlx_qnext.generate.events import Finished
from mlx_qnext.generate.request import GenerationConfig

_SEEDS = 2**64


@dataclass
class Talk:
    """What is said, and where it is remembered; `json_model` names the model where answers are printed as JSON.

    Attributes:
        setting: what the line of figures says of the model. show_steps: tokens that one step gave together are shaded.
        retries: how many times another answer was asked for. A fixed seed moves on with it, or all answers were the same.
    """

    conversation: Conversation
    config: GenerationConfig
    keeping: Keeping
    err: Console
    json_model: str | None
    setting: Setting
    show_steps: bool = False
    retries: int = 0

    def turn(self, line: str) -> Finished | None:
        """Do what one text from the user asks for; `None` where that needs no answer.

        Raises:
            EOFError: it asks to leave. ContextLengthError, TokenizerError: it cannot be asked.
            CheckpointError: an expert cannot be read. The question is forgotten, and what was said before it is not.
            SessionError, OutputError: it cannot be saved, or what was saved cannot be had.
        """
        action = read(line, self.conversation)
        if isinstance(action, Ask):
            return self._exchange(action)
        self._do(action)
        return None

    def reading_ahead(self) -> AbstractContextManager[None]:
        """While the user types."""
        return reading_ahead(self.keeping.session, self.conversation.messages, self.config.thinking)

    def keep(self) -> None:
        """Save what was said since it was saved last, where that happens by itself; and say where.

        Raises:
            SessionError, OutputError: it cannot be saved.
        """
        if self.keeping.automatic and self.conversation.questions:
            saved = self.keeping.save_what_is_new(self.conversation.messages)
            if saved is not None:
                terminal.note(self.err, saved)

    def resume(self, name: str) -> None:
        """Go on with a saved conversation; what was said until now is saved first, where that happens by itself.

        Raises:
            UsageError, SessionError: that cannot be had. OutputError: what was said until now cannot be saved.
        """
        self.keep()
        messages, said = self.keeping.load(name)
        self.conversation.go_on_from(messages)
        self._say(said)

    def _do(self, action: Action) -> None:
        match action:
            case Leave():
                raise EOFError
            case Clear():
                self.keeping.begin_another()
                self._say("The conversation is forgotten.")
            case Nothing():
                pass
            case Say(shown):
                self._say(shown)
            case Save(name):
                self._save(name)
            case Load(name):
                self.resume(name)
            case ListSaved():
                self._say(self.keeping.listed())

    def _save(self, name: str | None) -> None:
        if not self.conversation.questions:
            self._say("There is nothing to save yet: nothing was asked.")
            return
        self._say(self.keeping.save(self.conversation.messages, name))

    def _say(self, shown: RenderableType) -> None:
        if isinstance(shown, str):
            terminal.note(self.err, shown)
        else:
            self.err.print(shown, style="dim", soft_wrap=False)

    def _exchange(self, asked: Ask) -> Finished:
        self.retries += asked.again
        question = asked.question
        view = None
        if self.json_model is None:
            view = AnswerView(
                terminal.out(),
                self.err,
                self.conversation.thinking,
                setting=self.setting,
                show_steps=self.show_steps,
            )
        result = answer(
            self.keeping.session, self.conversation.prompt(question), self._config(), self.err, view
        )
        if self.json_model is not None:
            typer.echo(record(result, self.json_model))
        else:
            print_stats(self.err, result, self.setting)
        if not self.conversation.answered(question, result):
            terminal.note(self.err, "Stopped before the first word: the question is forgotten.")
        self.err.print()
        return result

    def _config(self) -> GenerationConfig:
        seed = self.config.seed
        return self.config if seed is None else replace(self.config, seed=(seed + self.retries) % _SEEDS)
