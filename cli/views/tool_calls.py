"""A tool call in one line."""

from __future__ import annotations

import json
import re
from typing import Any

from rich.text import Text

from cli.terminal import visible

_FUNCTION = re.compile(r"<function=([^>\n]+)>(.*?)(?:</function>|$)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?(?:</parameter>|$)", re.DOTALL)
_LONGEST_VALUE = 60


def call_line(body: str) -> Text:
    """The tool's name and arguments, of a body as the model wrote it; where it cannot be read, that is said instead."""
    called = _from_json(body) or _from_tags(body)
    if called is None:
        return Text("→ a tool call that cannot be read", style="dim")
    name, arguments = called
    given = ", ".join(f"{key}={_short(value)}" for key, value in arguments.items())
    return Text(visible(f"→ {' '.join(name.split())}({given})").replace("\n", " "), style="dim")


def _from_json(body: str) -> tuple[str, dict[str, Any]] | None:
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", {})
    return call["name"], arguments if isinstance(arguments, dict) else {"arguments": arguments}


def _from_tags(body: str) -> tuple[str, dict[str, Any]] | None:
    function = _FUNCTION.search(body)
    if function is None:
        return None
    return function[1], dict(_PARAMETER.findall(function[2]))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
