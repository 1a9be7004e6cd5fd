"""The list of local models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cli.terminal import visible
from cli.views.units import size

_HEADINGS = ("name", "weights", "MTP", "size", "used")
# Of a terminal that leaves nothing out.
_WIDE = 1000
_MTP = {True: "yes", False: "no", None: "–"}


class ModelList:
    """The facts that `qnext models --json` prints, for people: a table where it finds room, else two lines for each."""

    def __init__(self, models: Sequence[Mapping[str, Any]]) -> None:
        self._models = models

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._table()
        if Measurement.get(console, options.update(width=_WIDE), table).maximum <= options.max_width:
            yield table
        else:
            yield from map(_lines, self._models)
        for facts in self._models:
            if not facts["complete"]:
                yield Text(
                    visible(
                        f"{facts['name']} is not all here; any command that loads it goes on with the download."
                    )
                )

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for heading in _HEADINGS:
            table.add_column(heading, justify="right" if heading == "size" else "left", no_wrap=True)
        for facts in self._models:
            table.add_row(*map(visible, _cells(facts)), style=_style(facts))
        return table


def _lines(facts: Mapping[str, Any]) -> RenderableType:
    name, weights, mtp, *rest = _cells(facts)
    figures = " · ".join([weights, f"MTP {mtp}", *rest])
    # The name is what people copy: it is not broken by anything but the terminal.
    return Group(
        Text(visible(name), style=_style(facts), overflow="fold"),
        Padding(Text(visible(figures), style="dim"), (0, 0, 0, 2)),
    )


def _style(facts: Mapping[str, Any]) -> str:
    return "" if facts["complete"] else "dim"


def _cells(facts: Mapping[str, Any]) -> list[str]:
    return [
        facts["name"],
        facts["quantization"] or "–",
        _MTP[facts["mtp"]],
        size(facts["bytes"]),
        "–" if facts["used_at"] is None else facts["used_at"][:10],
    ]
