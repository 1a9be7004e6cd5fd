"""One chat while it lasts: what becomes of each text that the user sends."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import typer
from rich.console import Console, RenderableType

from cli import terminal
from cli.actions import (
    Action,
    Ask,
    Attach,
    Change,
    Clear,
    Export,
    Leave,
    ListSaved,
    Load,
    Nothing,
    Save,
    Say,
    ShowFigures,
    UseModel,
)
from cli.adjusting import changed, shown
from cli.answering import answer
from cli.attaching import attachment, meant_file
from cli.commands import read
from cli.conversation import Conversation
from cli.exporting import export
from cli.keeping import Keeping
from cli.options import Room
from cli.reading_ahead import reading_ahead
from cli.record import record
from cli.settings import Settings
from cli.swapping import swap_model
from cli.totals import Totals
from cli.views.answer import AnswerView
from cli.views.commands import attached, attached_again, setting_line, setting_list
from cli.views.figures import figures
from cli.views.stats import print_stats
from cli.views.status import Setting
from mlx_qnext.generate.events import Finished
from mlx_qnext.generate.request import GenerationConfig

_SEEDS = 2**64
# A question about files keeps this part of the context for itself and its answer.
_ANSWERS_PART = 8


@dataclass
class Talk:
    """What is said, and where it is remembered.

    Attributes:
        settings: what is asked with. room: what any model may take.
        as_json: answers are printed as JSON. show_steps: tokens that one step gave together are shaded.
        retries: how many times another answer was asked for. A fixed seed moves on with it, or all answers were the same.
        totals: of the conversation's answers.
    """

    conversation: Conversation
    settings: Settings
    room: Room
    keeping: Keeping
    err: Console
    as_json: bool = False
    show_steps: bool = False
    retries: int = 0
    totals: Totals = field(default_factory=Totals)

    def turn(self, line: str) -> Finished | None:
        """Do what one text from the user asks for; `None` where that needs no answer.

        Raises:
            EOFError: it asks to leave. ContextLengthError, TokenizerError: it cannot be asked.
            CheckpointError: an expert cannot be read. The question is forgotten, and what was said before it is not.
            SessionError, OutputError: it cannot be saved, or what was saved cannot be had.
            UsageError: what it says cannot be meant. QnextError: as `swap_model`.
        """
        action = read(line, self.conversation)
        if isinstance(action, Ask):
            return self._exchange(action)
        self._do(action)
        return None

    def reading_ahead(self) -> AbstractContextManager[None]:
        """While the user types."""
        return reading_ahead(
            self.keeping.session, self.conversation.messages, self.settings.request().thinking
        )

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
        self.totals = Totals()
        self._say(said)

    def _do(self, action: Action) -> None:
        match action:
            case Leave():
                raise EOFError
            case Clear():
                self.keeping.begin_another()
                self.totals = Totals()
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
            case Attach(path):
                self._attach(path)
            case Change(name, value):
                self._change(name, value)
            case ShowFigures():
                self._say(figures(self.totals, self._setting, len(self.keeping.session.tokens)))
            case Export(path, thinking, overwrite):
                messages = self.conversation.messages
                file = export(path, self.keeping.model, messages, thinking=thinking, overwrite=overwrite)
                self._say(f"Written to {file}.")
            case UseModel(name):
                self._use_model(name)

    def _attach(self, path: str) -> None:
        engine = self.keeping.engine
        question = self.conversation.question("")
        if self.settings.when_full == "drop":
            question = replace(question, past=())
        taken = engine.tokenizer.prompt(self.conversation.prompt(question)).token_ids
        limit = engine.plan.context_tokens
        room = limit - limit // _ANSWERS_PART - len(taken)
        file = meant_file(path)
        before = self.conversation.attached_from(file)
        if before is not None:
            room += before.tokens
        now = attachment(file, lambda text: len(engine.tokenizer.encode(text)), max(room, 0))
        self.conversation.attach(now)
        self._say(attached_again(now, before) if before is not None else attached(now))

    def _change(self, name: str | None, value: str | None) -> None:
        if name is not None and value is not None:
            self._adopt(changed(self.settings, name, value))
        found = list(shown(self.settings, self.keeping.engine.defaults, name))
        self._say(setting_list(found) if name is None else setting_line(*found))

    def _use_model(self, name: str | None) -> None:
        if name is None:
            tokens = self.keeping.engine.plan.context_tokens
            self._say(f"{self.keeping.model} answers, with a context of {tokens:,} tokens.")
            return
        if name == self.keeping.model:
            self._say(f"{name} answers already.")
            return
        # If no model can be had at all any more, this much is safe.
        self.keep()
        swap_model(self.keeping, name, self.room, self.err)
        self._adopt(replace(self.settings, model=name))
        self._say(f"{name} answers from now on; what was said is read again.")

    def _adopt(self, settings: Settings) -> None:
        self.settings = settings
        self.keeping.adopt(settings.facts())

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
        if not self.as_json:
            view = AnswerView(
                terminal.out(),
                self.err,
                self.conversation.thinking,
                setting=self._setting,
                show_steps=self.show_steps,
            )
        result = answer(
            self.keeping.session, self.conversation.prompt(question), self._config(), self.err, view
        )
        self.totals.add(result)
        if self.as_json:
            typer.echo(record(result, self.keeping.model))
        else:
            print_stats(self.err, result, self._setting)
        if not self.conversation.answered(question, result):
            terminal.note(self.err, "Stopped before the first word: the question is forgotten.")
        self.err.print()
        return result

    @property
    def _setting(self) -> Setting:
        return Setting(self.keeping.model, self.keeping.engine.plan.context_tokens)

    def _config(self) -> GenerationConfig:
        config = self.settings.request()
        if config.seed is None:
            return config
        return replace(config, seed=(config.seed + self.retries) % _SEEDS)
