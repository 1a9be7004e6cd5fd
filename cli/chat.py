"""`qnext chat`: a conversation, in the terminal or through a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from cli import options, terminal
from cli.conversation import Conversation
from cli.input_history import InputHistory
from cli.interrupts import hanging_up_interrupts
from cli.keeping import Keeping
from cli.keyboard import typed_turns
from cli.loading import EMBEDDED, load_engine
from cli.piped import piped_lines
from cli.settings import Settings
from cli.shell_completion import complete_session
from cli.swapping import StoppedError
from cli.views.thought import Thinking
from mlx_qnext.errors import (
    INTERRUPTED_EXIT_CODE,
    CheckpointError,
    ContextLengthError,
    HubError,
    MemoryLimitError,
    ModelNotFoundError,
    OutputError,
    QnextError,
    SessionError,
    TokenizerError,
    UnsupportedModelError,
    UsageError,
)

if TYPE_CHECKING:
    from cli.talk import Talk
    from mlx_qnext.sessions.library import SessionLibrary

# After these the next question may be answered: there is a model as before, and a disk that went away may be back.
_PASSING: tuple[type[QnextError], ...] = (
    CheckpointError,
    ContextLengthError,
    HubError,
    MemoryLimitError,
    ModelNotFoundError,
    TokenizerError,
    UnsupportedModelError,
    SessionError,
    OutputError,
    UsageError,
    StoppedError,
)
_RESUME = "--resume"


class ResumeMayStandAlone(TyperCommand):
    """Takes `--resume` without a name for the conversation saved last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments that are left; `--resume` has an empty name where none follows."""
        return super().parse_args(ctx, list(_named(args)))


def _named(args: list[str]) -> Iterator[str]:
    for argument, following in zip(args, [*args[1:], "-"]):
        yield argument
        if argument == _RESUME and following.startswith("-"):
            yield ""


def chat(
    call: typer.Context,
    model: options.Model = None,
    system: options.System = None,
    thinking: options.ShowThinking = Thinking.collapse,
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
    when_full: options.WhenContextIsFull = "drop",
    resume: Annotated[
        str | None,
        typer.Option(
            _RESUME,
            autocompletion=complete_session,
            metavar="[<name>]",
            help="Go on with a saved conversation, by default the last one, with its model and options where this line names "
            "no others.",
        ),
    ] = None,
    no_save: Annotated[
        bool,
        typer.Option(
            "--no-save",
            help="Do not save the conversation at the end, nor remember what is typed for the next chat. Through a pipe only "
            "one that was resumed is saved.",
        ),
    ] = False,
    show_steps: Annotated[
        bool,
        typer.Option(
            "--show-steps",
            help="Shade tokens that one step gave together, as drafts that stood; answers are plain text then.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object an answer instead.")] = False,
) -> None:
    """Talk with the model; it remembers the conversation, which is saved at the end. Ctrl-C stops an answer, Ctrl-D leaves."""
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
    # Imported once there is something to talk about: a shell completes without it.
    from cli.talk import Talk
    from mlx_qnext.sessions.library import SessionLibrary

    library = SessionLibrary()
    if resume is not None:
        resume = resume or _latest(library)
        settings = settings.after(library.read(resume).settings, _given(call))
    # What cannot be meant is said before a model is loaded.
    settings.request()
    room, err, typed = settings.room(memory), terminal.err(), terminal.stdin_is_terminal()
    # No name for the engine: another one may take its place, and its memory then.
    keeping = Keeping(
        library,
        load_engine(settings.model, err, room),
        settings.model or EMBEDDED,
        settings.facts(),
        automatic=not no_save and (typed or resume is not None),
    )
    talk = Talk(
        Conversation(system, thinking), settings, room, keeping, err, as_json=as_json, show_steps=show_steps
    )
    with closing(keeping):
        if resume is not None:
            talk.resume(resume)
        if typed:
            _in_terminal(talk, InputHistory(adds=not no_save))
        else:
            _until_left(talk, _piped)


def _latest(library: SessionLibrary) -> str:
    name = library.latest()
    if name is None:
        raise SessionError("No conversation is saved yet: qnext chat begins one.")
    return name


def _given(call: typer.Context) -> set[str]:
    """The parameters that this command line names; the environment is not more than a default."""
    sources = {name: call.get_parameter_source(name) for name in call.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def _in_terminal(talk: Talk, history: InputHistory) -> None:
    """Raises:
    SessionError, OutputError: what was said cannot be saved, the second time too.
    """
    terminal.note(talk.err, f"{talk.keeping.model} · /help lists the commands, Ctrl-D leaves\n")
    typed = partial(_typed, history=history)
    with hanging_up_interrupts():
        try:
            _until_left(talk, typed)
        except (SessionError, OutputError) as error:
            _complain(talk, error)
            terminal.note(talk.err, "The conversation is still here: Ctrl-D tries again, and leaves.")
            _until_left(talk, typed)


def _until_left(talk: Talk, turns: Callable[[Talk], None]) -> None:
    """All turns; whatever ends them, what was said is saved, where that happens by itself.

    Raises:
        SessionError, OutputError: it cannot be saved.
    """
    interrupted = False
    try:
        turns(talk)
    except KeyboardInterrupt:
        interrupted = True
    except Exception:
        talk.keep()
        raise
    # Out of the handlers: what they handle holds an answer that was broken off, and that one the session.
    talk.keep()
    if interrupted:
        raise typer.Exit(INTERRUPTED_EXIT_CODE)


def _typed(talk: Talk, history: InputHistory) -> None:
    """All turns until the user leaves."""
    with closing(typed_turns(talk.err, history)) as turns:
        while (text := _next(talk, turns)) is not None:
            try:
                talk.turn(text)
            except _PASSING as error:
                _complain(talk, error)
            except EOFError:
                return


def _next(talk: Talk, turns: Iterator[str]) -> str | None:
    """What is typed next; `None` at the end. Until it is there, what the next prompt begins with is read."""
    while True:
        try:
            with talk.reading_ahead():
                return next(turns, None)
        except KeyboardInterrupt:
            # It came behind a text that was typed, and that nobody has begun to answer.
            talk.err.print()


def _complain(talk: Talk, error: QnextError) -> None:
    talk.err.print(str(error), style="red", soft_wrap=False)


def _piped(talk: Talk) -> None:
    """Every line is a turn; the first that fails or is interrupted ends the program with its exit code."""
    for line in piped_lines():
        try:
            result = talk.turn(line)
        except EOFError:
            return
        if result is not None and result.reason == "cancelled":
            raise typer.Exit(INTERRUPTED_EXIT_CODE)
