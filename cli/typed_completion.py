"""What may follow in a line that is typed into a chat: commands and what they take. A question is never completed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cli.adjusting import DEFAULT
from cli.commands import COMMANDS, OTHER_NAMES, Command, command_named
from cli.shell_completion import complete_draft, complete_model, complete_session

_EXPORTED = (".md", ".json")
_VALUES = {"think": ("on", "off"), "draft": tuple(complete_draft(""))}
_NAMES_A_PATH = (".", "~", "/")


@dataclass(frozen=True)
class Candidate:
    """One way to go on.

    Attributes:
        text: what takes the place of the last `replaced` characters. shown: what it is called in a list.
        meaning: half a sentence, or nothing.
    """

    text: str
    replaced: int
    shown: str
    meaning: str = ""


def candidates(typed: str) -> Iterator[Candidate]:
    """Everything that may follow what stands before the cursor. Nothing here loads a model or asks the hub."""
    if not typed.startswith("/") or "\n" in typed:
        return
    name, space, argument = typed.partition(" ")
    if space:
        command = command_named(name)
        if command is not None:
            yield from _arguments(command, argument.lstrip())
        return
    # What other chats call them would only lengthen the list of all.
    named = {each: COMMANDS[OTHER_NAMES[each]] for each in OTHER_NAMES if len(name) > 1}
    for each, command in {**COMMANDS, **named}.items():
        if each.startswith(name.lower()):
            more = "" if command.takes == "nothing" else " "
            yield Candidate(each + more, len(name), each, command.meaning)


def _arguments(command: Command, argument: str) -> Iterator[Candidate]:
    if command.name == "/help":
        return _words(argument, ((name.removeprefix("/"), each.meaning) for name, each in COMMANDS.items()))
    if command.name == "/set":
        return _settings(command, argument)
    if command.name == "/load":
        return _words(argument, ((name, "") for name in complete_session("")))
    if command.name == "/export":
        return _exported(command, argument)
    if command.takes == "path":
        return _path_or_choice(command, argument)
    if command.takes == "model":
        return _models(argument)
    return _words(argument, ((choice, "") for choice in command.choices))


def _settings(command: Command, argument: str) -> Iterator[Candidate]:
    name, space, value = argument.partition(" ")
    if space:
        return _words(value.lstrip(), ((each, "") for each in (*_VALUES.get(name, ()), DEFAULT)))
    return _words(name, ((f"{each} ", "") for each in command.choices))


def _exported(command: Command, argument: str) -> Iterator[Candidate]:
    yield from _paths(argument, lambda name: name.lower().endswith(_EXPORTED))
    path, _, flag = argument.rpartition(" ")
    if path and flag.startswith("-"):
        yield from _words(flag, ((each, "") for each in command.flags if each not in path.split()))


def _path_or_choice(command: Command, argument: str) -> Iterator[Candidate]:
    yield from _paths(argument, lambda _: True)
    if argument.startswith("-"):
        yield from _words(argument, ((choice, "") for choice in command.choices))


def _models(argument: str) -> Iterator[Candidate]:
    if not argument.startswith(_NAMES_A_PATH):
        yield from _words(argument, complete_model(argument))
    if argument:
        yield from _paths(argument, None)


def _words(begun: str, words: Iterable[tuple[str, str]]) -> Iterator[Candidate]:
    for word, meaning in words:
        if word.startswith(begun):
            yield Candidate(word, len(begun), word.rstrip(), meaning)


def _paths(begun: str, wanted: Callable[[str], bool] | None) -> Iterator[Candidate]:
    """Folders, and the files whose names are wanted; hidden ones where a dot asks for them."""
    if begun == "~":
        yield Candidate("~/", 1, "~/")
        return
    folder, _, name = begun.rpartition("/")
    try:
        for entry in _entries(begun.removesuffix(name) if folder or begun.startswith("/") else ""):
            hidden = entry.name.startswith(".") and not name.startswith(".")
            if hidden or not entry.name.startswith(name) or not entry.name.isprintable():
                continue
            if entry.is_dir():
                yield Candidate(f"{entry.name}/", len(name), f"{entry.name}/")
            elif wanted is not None and wanted(entry.name):
                yield Candidate(entry.name, len(name), entry.name)
    except (OSError, RuntimeError, ValueError):
        # There is nothing of that name, or it may not be read, or that user has no home.
        return


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(Path(folder).expanduser()) as found:
        return sorted(found, key=lambda entry: entry.name)
