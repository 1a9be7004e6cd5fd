"""What a line typed into a chat means: a question, or one of the commands that begin with a slash."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from rich.console import RenderableType

from cli.conversation import Conversation, Question
from cli.views.commands import command_list, question_list
from cli.views.thought import Thinking


@dataclass(frozen=True)
class Ask:
    """Answer this; where it was asked before, another answer is wanted."""

    question: Question
    again: bool = False


@dataclass(frozen=True)
class Say:
    """Show this to the user."""

    shown: RenderableType


@dataclass(frozen=True)
class Nothing:
    """An empty line."""


@dataclass(frozen=True)
class Clear:
    """Begin another conversation."""


@dataclass(frozen=True)
class Save:
    """Keep the conversation on disk, under this name; without one, as it is named already, or by the time."""

    name: str | None


@dataclass(frozen=True)
class Load:
    """Go on with this saved conversation instead."""

    name: str


@dataclass(frozen=True)
class ListSaved:
    """Show which conversations are saved."""


@dataclass(frozen=True)
class Leave:
    """The end."""


Action: TypeAlias = Ask | Say | Nothing | Clear | Save | Load | ListSaved | Leave

_THOUGHTS = {Thinking.show: "shown", Thinking.collapse: "collapsed to a line when they end", Thinking.hide: "hidden"}
_NOTHING = Say("Nothing was asked yet.")


def read(line: str, conversation: Conversation) -> Action:
    """What to do about a line; where it is about the conversation alone, it is done already."""
    text = line.strip()
    if not text.startswith("/"):
        return Ask(conversation.question(text)) if text else Nothing()
    name, argument = _parted(text)
    command = _COMMANDS.get(name)
    return Say(_unknown(name)) if command is None else command.run(conversation, argument)


def _retry(conversation: Conversation, _argument: str) -> Action:
    if not conversation.questions:
        return _NOTHING
    return Ask(conversation.instead_of(0), again=True)


def _edit(conversation: Conversation, argument: str) -> Action:
    questions = conversation.questions
    if not questions:
        return _NOTHING
    number, text = _parted(argument)
    if not argument:
        return Say(question_list(questions))
    if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= len(questions):
        return Say(f"There is no question {number}: /edit lists them, from 1 to {len(questions)}.")
    if not text:
        return Say(
            f"Write the new text behind the number, as in /edit {number} TEXT. Until now it is:\n{questions[int(number) - 1]}"
        )
    return Ask(conversation.instead_of(int(number), text))


def _undo(conversation: Conversation, _argument: str) -> Action:
    if not conversation.questions:
        return _NOTHING
    return Say(f"Forgotten, with its answer: {conversation.undo()}")


def _system(conversation: Conversation, argument: str) -> Action:
    if argument:
        conversation.system = argument
        return Say("The system message is set; what was said is read again after it.")
    if conversation.system:
        return Say(conversation.system)
    return Say("There is no system message: /system TEXT sets one.")


def _think(conversation: Conversation, argument: str) -> Action:
    if argument not in list(Thinking):
        modes = ", ".join(f"/think {mode}" for mode in Thinking)
        return Say(f"Write one of {modes}; now it is {conversation.thinking}.")
    conversation.thinking = Thinking(argument)
    return Say(f"Thoughts are {_THOUGHTS[conversation.thinking]} from now on.")


def _clear(conversation: Conversation, _argument: str) -> Action:
    conversation.clear()
    return Clear()


def _load(_conversation: Conversation, argument: str) -> Action:
    return Load(argument) if argument else Say("Write which one, as in /load NAME; /sessions lists them.")


def _help(_conversation: Conversation, _argument: str) -> Action:
    return Say(command_list({command.usage: command.meaning for command in _COMMANDS.values()}))


@dataclass(frozen=True)
class _Command:
    usage: str
    meaning: str
    run: Callable[[Conversation, str], Action]


_COMMANDS = {
    command.usage.partition(" ")[0]: command
    for command in (
        _Command("/retry", "ask the last question again", _retry),
        _Command("/edit [N TEXT]", "ask question N anew, and forget what came after it", _edit),
        _Command("/undo", "forget the last question and its answer", _undo),
        _Command("/clear", "forget the conversation, and begin another one", _clear),
        _Command("/system [TEXT]", "show the system message, or set it", _system),
        _Command("/think [MODE]", "say what becomes of thoughts, or change it", _think),
        _Command("/save [NAME]", "keep the conversation on disk", lambda _, name: Save(name or None)),
        _Command("/load NAME", "go on with a saved conversation", _load),
        _Command("/sessions", "list the saved conversations", lambda *_: ListSaved()),
        _Command("/help", "list these commands", _help),
        _Command("/quit", "leave, as Ctrl-D does", lambda *_: Leave()),
    )
}


def _parted(text: str) -> tuple[str, str]:
    """The first word, and what follows it, however many lines that is."""
    word, *rest = text.split(maxsplit=1) or [""]
    return word, rest[0] if rest else ""


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, _COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "/help lists the commands."
    return f"There is no command {name}: {hint}"
