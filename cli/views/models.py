"""The list of local models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from cli.terminal import visible
from cli.views.units import size

_MTP = {True: "yes", False: "no", None: "–"}


class ModelList:
    """The facts that `qnext models --json` prints, for people."""

    def __init__(self, models: Sequence[Mapping[str, Any]]) -> None:
        self._models = models

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        # It is what people copy.
        table.add_column("name", overflow="fold")
        table.add_column("weights", no_wrap=True)
        table.add_column("MTP", no_wrap=True)
        table.add_column("size", justify="right", no_wrap=True)
        table.add_column("used", no_wrap=True)
        for facts in self._models:
            table.add_row(*map(visible, _cells(facts)), style="" if facts["complete"] else "dim")
        yield table
        for facts in self._models:
            if not facts["complete"]:
                yield Text(
                    visible(
                        f"{facts['name']} is not all here; any command that loads it goes on with the download."
                    )
                )


def _cells(facts: Mapping[str, Any]) -> list[str]:
    return [
        facts["name"],
        facts["quantization"] or "–",
        _MTP[facts["mtp"]],
        size(facts["bytes"]),
        "–" if facts["used_at"] is None else facts["used_at"][:10],
    ]
