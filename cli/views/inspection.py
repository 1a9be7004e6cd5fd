"""A model's facts as a table."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.views.units import count, size


def inspection(facts: dict[str, Any]) -> RenderableType:
    """The facts that `qnext inspect --json` prints, for people: sizes in decimal units."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("part")
    table.add_column("size", justify="right")
    table.add_column("precision")
    for part, labels in facts["quantization"].items():
        table.add_row(part, size(facts["bytes"][part]), ", ".join(labels) or "–")
    table.add_row("total", size(facts["bytes"]["total"]), "", style="bold")
    total, active = (count(facts["parameters"][name]) for name in ("total", "active"))
    heading = (
        f"{facts['path']}\n{facts['architecture']}, {facts['layers']} layers, context {facts['context']}\n"
        f"{total} parameters, {active} active a token; MTP head {'present' if facts['mtp'] else 'absent'}\n"
    )
    if "recipe" in facts:
        heading += f"made from {facts['source']} by the recipe {facts['recipe']}\n"
    if "verified" in facts:
        heading += f"all {facts['verified']} tensors are what they were when they were made\n"
    return Group(Text(heading), table)
