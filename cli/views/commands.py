"""What a chat's commands list: the commands themselves, and the questions so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from cli.adjusting import Shown
from cli.conversation import Attachment
from cli.terminal import visible
from cli.views.units import tokens

_KEYS = (
    'Alt-Enter, or \\ at the end of a line, begins another line; """ around a text holds several. Tab completes commands and '
    "paths; Up and Ctrl-R find what was typed before. Ctrl-C stops an answer."
)


def command_list(meanings: Mapping[str, str]) -> RenderableType:
    """How each command is written, and what it does."""
    return Group(_rows(meanings, wraps=True), _KEYS)


def question_list(questions: Sequence[str]) -> RenderableType:
    """The questions by number, each in one line, and how to change one."""
    numbered = {str(number): " ".join(text.split()) for number, text in enumerate(questions, 1)}
    return Group(_rows(numbered, wraps=False), "/edit N TEXT asks question N anew.")


def command_help(usage: str, meaning: str, more: str) -> RenderableType:
    """One command: how it is written, what it does, and what else there is to know."""
    return Group(f"{usage}: {meaning}.", more)


def attached_list(files: Sequence[Attachment]) -> RenderableType:
    """The files of the next question, each in one line."""
    return Group(*map(attached, files))


def attached(file: Attachment) -> str:
    """That a file is part of the next question, and what it takes of the context."""
    return f"attached: {visible(file.name)} ({tokens(file.tokens)} tokens)"


def attached_again(file: Attachment, before: Attachment) -> str:
    """That it was already, and whether it has changed since."""
    if file.text == before.text:
        return f"{visible(file.name)} is attached already."
    return f"{attached(file)}, in place of what it was"


def setting_list(settings: Iterable[Shown]) -> RenderableType:
    """Each setting, its value, and where that comes from."""
    table = Table.grid(padding=(0, 2))
    # Names are typed again; the rest may break.
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_column()
    for each in settings:
        table.add_row(each.name, visible(each.value), "" if each.value == each.origin else each.origin)
    return Group(table, "/set NAME VALUE changes one, /set NAME default takes that back.")


def setting_line(setting: Shown) -> str:
    """One setting likewise."""
    origin = "" if setting.value == setting.origin else f" ({setting.origin})"
    return f"{setting.name}: {setting.value}{origin}"


def _rows(texts: Mapping[str, str], *, wraps: bool) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(no_wrap=True)
    # What is left, however long the text: it would take all otherwise.
    table.add_column(ratio=1, no_wrap=not wraps, overflow="fold" if wraps else "ellipsis")
    for name, text in texts.items():
        table.add_row(name, visible(text))
    return table
