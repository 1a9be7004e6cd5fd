"""Settings as a table: what holds, and who says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.terminal import visible


@dataclass(frozen=True)
class SettingRow:
    """One setting; `source` is `None` where nobody set it."""

    key: str
    value: str
    source: str | None


def setting_table(rows: Sequence[SettingRow], path: Path) -> RenderableType:
    """All of them, those that nobody set dim, above where the file is."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("setting", "value", "from"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        style = "dim" if row.source is None else ""
        table.add_row(row.key, visible(row.value), row.source or "built in", style=style)
    state = "" if path.exists() else " (not there yet)"
    return Group(table, Text(f"\nThe file: {visible(str(path))}{state}"))
