"""What a chat's commands list: the commands themselves, and the questions so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from cli.terminal import visible

_KEYS = "A line that ends in \\ goes on with the next; Ctrl-C stops an answer."


def command_list(meanings: Mapping[str, str]) -> RenderableType:
    """How each command is written, and what it does."""
    return Group(_rows(meanings, wraps=True), _KEYS)


def question_list(questions: Sequence[str]) -> RenderableType:
    """The questions by number, each in one line, and how to change one."""
    numbered = {str(number): " ".join(text.split()) for number, text in enumerate(questions, 1)}
    return Group(_rows(numbered, wraps=False), "/edit N TEXT asks question N anew.")


def _rows(texts: Mapping[str, str], *, wraps: bool) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(no_wrap=True)
    # What is left, however long the text: it would take all otherwise.
    table.add_column(ratio=1, no_wrap=not wraps, overflow="fold" if wraps else "ellipsis")
    for name, text in texts.items():
        table.add_row(name, visible(text))
    return table
