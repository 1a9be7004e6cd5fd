"""Saved conversations: the list of them, and one as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cli.conversation import text_of
from cli.terminal import visible
from cli.views.units import size

_GAP = 2
# Less of a question tells nothing.
_LEAST_TITLE = 16
_BAR = "│ "
_MARKS = {"user": "› ", "assistant": ""}


class SessionList:
    """The facts that `qnext sessions --json` prints, for people: a table where it finds room, else some lines for each."""

    def __init__(self, sessions: Sequence[Mapping[str, Any]]) -> None:
        self._sessions = sessions

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._sessions:
            yield "No conversation is saved."
            return
        table = self._table(title_width=0)
        left = options.max_width - Measurement.get(console, options, table).maximum - _GAP
        if left < 0:
            yield from map(_lines, self._sessions)
            return
        yield table if left < _LEAST_TITLE else self._table(title_width=left)
        for facts in self._sessions:
            if facts["problem"]:
                yield Text(visible(f"{facts['name']}: {facts['problem']}"), style="red")

    def _table(self, title_width: int) -> Table:
        """With as much of the first question as there is room for."""
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, _GAP, 0, 0))
        table.add_column("name")
        table.add_column("saved")
        table.add_column("turns", justify="right")
        table.add_column("size", justify="right")
        table.add_column("model")
        if title_width:
            table.add_column("begins with", no_wrap=True, max_width=title_width)
        for facts in self._sessions:
            title = [facts["title"] or "–"] if title_width else []
            table.add_row(*map(visible, [facts["name"], *_figures(facts).values(), *title]))
        return table


def saved_as(name: str, asked: int, nbytes: int) -> str:
    """Where a conversation is, and how to go on with it."""
    return f"Saved as {name} ({turns(asked)}, {size(nbytes)}); qnext chat --resume goes on."


def goes_on(name: str, asked: int, cached_tokens: int) -> str:
    """Which conversation this is, and what need not be read again."""
    return f"Going on with {name}: {turns(asked)}, {cached_tokens} tokens remembered."


def turns(count: int) -> str:
    """How many questions were asked, in words."""
    return f"{count} turn" if count == 1 else f"{count} turns"


def transcript(messages: Sequence[Mapping[str, Any]], *, thinking: bool) -> str:
    """What was said, as plain text: questions behind an angle, thoughts behind a bar, where they are wanted."""
    return "\n\n".join(part for message in messages for part in _parts(message, thinking=thinking)) + "\n"


def _parts(message: Mapping[str, Any], *, thinking: bool) -> Iterator[str]:
    role = str(message.get("role"))
    thought = message.get("reasoning_content")
    if thinking and isinstance(thought, str) and thought.strip():
        yield "\n".join(f"{_BAR}{line}".rstrip() for line in thought.strip().splitlines())
    for call in message.get("tool_calls") or ():
        yield f"calls {call}"
    if text := text_of(message).strip():
        yield _MARKS.get(role, f"{role}: ") + text


def _figures(facts: Mapping[str, Any]) -> dict[str, str]:
    """What is known, in words."""
    return {
        "saved": "–" if facts["saved_at"] is None else facts["saved_at"][:16].replace("T", " "),
        "turns": "–" if facts["turns"] is None else str(facts["turns"]),
        "size": size(facts["bytes"]),
        "model": facts["model"] or "–",
    }


def _lines(facts: Mapping[str, Any]) -> RenderableType:
    figures = _figures(facts)
    if facts["turns"] is not None:
        figures["turns"] = turns(facts["turns"])
    lines: list[RenderableType] = [
        Text(visible(facts["name"])),
        _indented(" · ".join(figures.values()), "dim"),
    ]
    if facts["title"]:
        lines.append(_indented(facts["title"]))
    if facts["problem"]:
        lines.append(_indented(facts["problem"], "red"))
    return Group(*lines)


def _indented(text: str, style: str = "") -> RenderableType:
    return Padding(Text(visible(text), style=style), (0, 0, 0, _GAP))
