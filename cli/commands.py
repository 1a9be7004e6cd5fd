"""What a line typed into a chat means: a question, or one of the commands that begin with a slash."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

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
from cli.adjusting import NAMES
from cli.conversation import Conversation
from cli.views.commands import attached_list, command_help, command_list, question_list
from cli.views.thought import Thinking
from mlx_qnext.errors import UsageError

Takes: TypeAlias = Literal["nothing", "text", "number", "choice", "path", "session", "model"]

_THOUGHTS = {
    Thinking.show: "shown",
    Thinking.collapse: "collapsed to a line when they end",
    Thinking.hide: "hidden",
}
_NOTHING = Say("Nothing was asked yet.")
_WITH_THOUGHTS, _OVER, _NONE = "--thinking", "--overwrite", "--none"
# A path or a comment may begin with a slash too.
_LOOKS_LIKE_ONE = re.compile(r"/[a-z?][\w?-]*", re.IGNORECASE)
# What other chats call them.
OTHER_NAMES = {"/?": "/help", "/exit": "/quit", "/bye": "/quit", "/new": "/clear"}


@dataclass(frozen=True)
class Command:
    """One of them.

    Attributes:
        argument: how what follows the name is written; in brackets where it may be left out.
        takes: what its first word is. choices: the words it may be, where they are known.
        flags: what may stand behind all that.
        meaning: what it does, in half a sentence. more: what else there is to know, in sentences.
    """

    name: str
    argument: str
    takes: Takes
    meaning: str
    more: str
    run: Callable[[Conversation, str], Action]
    choices: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def usage(self) -> str:
        """How it is written."""
        return f"{self.name} {self.argument}".rstrip()


def read(line: str, conversation: Conversation) -> Action:
    """What to do about a line; where it is about the conversation alone, it is done already.

    Raises:
        UsageError: it looks like a command and is none, or what follows the command cannot be meant.
    """
    text = line.strip()
    if not text:
        return Nothing()
    name, argument = _parted(text)
    if line[0].isspace() or not _LOOKS_LIKE_ONE.fullmatch(name):
        return Ask(conversation.question(text))
    command = _named(name)
    if argument and command.takes == "nothing":
        raise UsageError(f"{command.name} takes nothing behind it, and here is {argument}: leave that out.")
    return command.run(conversation, argument)


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
        raise UsageError(f"There is no question {number}: /edit lists them, from 1 to {len(questions)}.")
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
        said = f"Write one of {modes}; now it is {conversation.thinking}."
        if argument:
            raise UsageError(f"Thoughts cannot be {argument} on screen. {said}")
        return Say(said)
    conversation.thinking = Thinking(argument)
    return Say(f"Thoughts are {_THOUGHTS[conversation.thinking]} from now on.")


def _clear(conversation: Conversation, _argument: str) -> Action:
    conversation.clear()
    return Clear()


def _load(_conversation: Conversation, argument: str) -> Action:
    if not argument:
        raise UsageError("Write which one, as in /load NAME; /sessions lists them.")
    return Load(argument)


def _set(_conversation: Conversation, argument: str) -> Action:
    name, value = _parted(argument.replace("=", " ", 1))
    return Change(name or None, value or None)


def _file(conversation: Conversation, argument: str) -> Action:
    if argument == _NONE:
        conversation.attached = []
        return Say("Nothing is attached any more.")
    if argument:
        return Attach(argument)
    if conversation.attached:
        return Say(attached_list(conversation.attached))
    return Say("Nothing is attached: /file PATH puts a text file into the next question.")


def _export(conversation: Conversation, argument: str) -> Action:
    *words, thinking, overwrite = _without_flags(argument)
    if not words[0]:
        raise UsageError("Write where, as in /export chat.md or /export chat.json.")
    if not conversation.questions:
        return _NOTHING
    return Export(words[0], thinking, overwrite)


def _without_flags(argument: str) -> tuple[str, bool, bool]:
    """The path, and whether each of the flags is behind it."""
    flags = set[str]()
    while (word := argument.rpartition(" ")[2]) in (_WITH_THOUGHTS, _OVER):
        flags.add(word)
        argument = argument.removesuffix(word).rstrip()
    return argument, _WITH_THOUGHTS in flags, _OVER in flags


def _help(_conversation: Conversation, argument: str) -> Action:
    if not argument:
        return Say(command_list({command.usage: command.meaning for command in COMMANDS.values()}))
    command = _named(f"/{argument.split()[0].removeprefix('/')}")
    return Say(command_help(command.usage, command.meaning, command.more))


_ALL = (
    Command(
        "/help",
        "[COMMAND]",
        "choice",
        "list these commands, or say more of one",
        "As in /help edit. What is no command is asked, a path such as /usr/bin too; a space in front asks anything.",
        _help,
    ),
    Command(
        "/retry",
        "",
        "nothing",
        "ask the last question again",
        "Its answer is replaced once the new one has begun. A seed that is set moves on, or both were the same.",
        _retry,
    ),
    Command(
        "/edit",
        "[N TEXT]",
        "number",
        "ask question N anew, and forget what came after it",
        "Alone it lists the questions. The files that the question was about stay with it.",
        _edit,
    ),
    Command(
        "/undo",
        "",
        "nothing",
        "forget the last question and its answer",
        "Again, it forgets the one before.",
        _undo,
    ),
    Command(
        "/clear",
        "",
        "nothing",
        "forget the conversation, and begin another one",
        "The system message and the settings stay. What was saved stays saved; what comes next is saved apart from it.",
        _clear,
    ),
    Command(
        "/system",
        "[TEXT]",
        "text",
        "show the system message, or set it",
        "It leads the conversation, which is read again after it when the next question is asked.",
        _system,
    ),
    Command(
        "/set",
        "[NAME [VALUE]]",
        "choice",
        "show the settings, or change one",
        "They are those of the command line: sampling, limits, drafts, the thought. /set NAME default takes back what was set.",
        _set,
        NAMES,
    ),
    Command(
        "/think",
        "[MODE]",
        "choice",
        "say what becomes of thoughts on screen, or change it",
        "They are shown, collapsed to a line when they end, or hidden. /set think off asks for none; /set think-budget N "
        "closes one that grows longer than N tokens.",
        _think,
        tuple(Thinking),
    ),
    Command(
        "/stats",
        "",
        "nothing",
        "show the figures of the last answer and of the conversation",
        "Tokens, what the cache spared, speed, drafts, experts, memory, and how much of the context is used.",
        lambda *_: ShowFigures(),
    ),
    Command(
        "/file",
        "[PATH]",
        "path",
        "put a text file into the next question",
        "It has to be UTF-8 and to fit what is left of the context. Several are possible, one after the other; one that "
        f"is named again is read again. Alone it lists what is attached; /file {_NONE} drops that.",
        _file,
        (_NONE,),
    ),
    Command(
        "/save",
        "[NAME]",
        "session",
        "keep the conversation on disk",
        "With all that the model has read of it, so that going on needs no second reading. Without a name it is saved "
        "under the one it has, or the time.",
        lambda _, name: Save(name or None),
    ),
    Command(
        "/load",
        "NAME",
        "session",
        "go on with a saved conversation",
        "The one at hand is saved first, where that happens by itself. /sessions lists the names.",
        _load,
    ),
    Command(
        "/sessions",
        "",
        "nothing",
        "list the saved conversations",
        "qnext sessions shows and deletes them.",
        lambda *_: ListSaved(),
    ),
    Command(
        "/export",
        "PATH",
        "path",
        "write the conversation into a file, .md or .json",
        f"Behind the path, {_WITH_THOUGHTS} writes the thoughts too, and {_OVER} replaces a file that is there.",
        _export,
        flags=(_WITH_THOUGHTS, _OVER),
    ),
    Command(
        "/model",
        "[NAME]",
        "model",
        "say which model answers, or go on with another one",
        "A folder, a hub repository or an alias. The other one is loaded in its place, and reads the conversation again.",
        lambda _, name: UseModel(name or None),
    ),
    Command(
        "/quit",
        "",
        "nothing",
        "leave, as Ctrl-D does",
        "The conversation is saved, unless that is turned off.",
        lambda *_: Leave(),
    ),
)

COMMANDS: Mapping[str, Command] = {command.name: command for command in _ALL}


def command_named(name: str) -> Command | None:
    """The command of this name, in small letters or large ones, also as other chats call it."""
    folded = name.lower()
    return COMMANDS.get(OTHER_NAMES.get(folded, folded))


def _parted(text: str) -> tuple[str, str]:
    """The first word, and what follows it, however many lines that is."""
    word, *rest = text.split(maxsplit=1) or [""]
    return word, rest[0] if rest else ""


def _named(name: str) -> Command:
    """As `command_named`.

    Raises:
        UsageError: there is none.
    """
    known = command_named(name)
    if known is not None:
        return known
    near = difflib.get_close_matches(name.lower(), COMMANDS, n=1)
    hint = (
        f"did you mean {near[0]}?" if near else "/help lists them, and a space in front makes it a question."
    )
    raise UsageError(f"There is no command {name}: {hint}")
