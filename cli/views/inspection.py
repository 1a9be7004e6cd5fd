"""A model's facts as a table."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli.views.forecast import forecast_text
from cli.views.units import count, percent, size


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
    shown: list[RenderableType] = [Text(heading), table]
    if facts.get("plan"):
        shown += [
            Text(),
            _plan(facts["plan"]),
            Text(f"\n{_regime(facts['plan'])}\n{_contexts(facts['plan'])}"),
        ]
        shown.append(Text(f"\n{_machine(facts['machine'])}"))
    if facts.get("forecast"):
        shown.append(Text(f"\n{forecast_text(facts['forecast'])}"))
    return Group(*shown)


def _plan(plan: dict[str, Any]) -> RenderableType:
    """What is set aside in memory, part by part."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("memory")
    table.add_column("size", justify="right")
    table.add_column("for")
    slots = plan["slots"]
    purposes = {
        "trunk": "weights that are always there",
        "experts": _slots(slots["least"], slots["most"], slots["of"]) if slots else "–",
        "cache": f"a context of {plan['context']} tokens{_bits(plan['kv_bits'])}",
        "state": f"recurrent layers, {plan['checkpoints']} checkpoints",
        "workspace": f"prompts: spans of {plan['span']}, chunks of {plan['chunk']}",
        "headroom": "everything else",
    }
    for part, purpose in purposes.items():
        table.add_row(part, size(plan["bytes"][part]), purpose)
    whose = "this machine can spare" if plan["asked"] is None else "given"
    table.add_row("total", size(plan["bytes"]["total"]), f"of {size(plan['given'])} {whose}", style="bold")
    return table


def _slots(least: int, most: int, of: int) -> str:
    return f"{least if least == most else f'{least} to {most}'} of {of} a layer"


def _bits(kv_bits: int | None) -> str:
    return "" if kv_bits is None else f" at {kv_bits} bits"


def _regime(plan: dict[str, Any]) -> str:
    """What the plan means, in words."""
    if not plan["fits"]:
        return f"Too little: the smallest that works is {size(plan['smallest'])}, and this is its plan."
    if plan["regime"] == "resident":
        return "Everything finds room: each weight is read once, and stays."
    return f"{percent(plan['share'])} of the experts find room at a time; the others are read when they are needed."


def _contexts(plan: dict[str, Any]) -> str:
    """How long a context may be."""
    longest, resident = plan["largest_context"], plan["largest_resident_context"]
    if longest is None:
        return "Not even a context of 256 tokens fits."
    beside = "" if resident in (None, longest) else f"; up to {resident} beside all experts"
    return f"A context of at most {longest} tokens fits{beside}."


def _machine(found: dict[str, Any]) -> str:
    """What was found of memory, and who says so."""
    parts = [f"{size(found['gpu'])} on the GPU"] if found["gpu"] else []
    kind = "unified memory" if found["backend"] == "metal" else "memory"
    parts.append(f"{size(found['physical'])} of {kind}, {size(found['available'])} of it available")
    if found["control_group"]:
        parts.append(f"its control group allows {size(found['control_group'])}")
    if found["recommended"]:
        parts.append(f"macOS recommends at most {size(found['recommended'])}")
    return f"This machine: {'; '.join(parts)}."
