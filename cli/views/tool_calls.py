"""Tool calls in one line each, and where an answer has some that nobody offered tools for."""

from __future__ import annotations

import json
import re
from typing import Any

from rich.text import Text

from cli.terminal import visible
from mlx_qnext.transcript import CLOSE_CALL, OPEN_CALL, Segment

_FUNCTION = re.compile(r"<function=([^>\n]+)>(.*?)(?:</function>|$)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?(?:</parameter>|$)", re.DOTALL)
_LONGEST_VALUE = 60
_FENCES = ("```", "~~~")
# How the templates have their bodies begin.
_CALLS = ("{", "<function=")


def call_line(body: str) -> Text:
    """The tool's name and arguments, of a body as the model wrote it; where it cannot be read, that is said instead."""
    called = _from_json(body) or _from_tags(body)
    if called is None:
        return Text("→ a tool call that cannot be read", style="dim")
    name, arguments = called
    given = ", ".join(f"{key}={_short(value)}" for key, value in arguments.items())
    return Text(visible(f"→ {' '.join(name.split())}({given})").replace("\n", " "), style="dim")


class UnofferedCalls:
    """Finds the calls in an answer that no tools were offered for, which is text to the engine: those that begin a line. Any
    other text passes as it is, and so do calls that are quoted in blocks of code."""

    def __init__(self) -> None:
        self._held = ""
        self._line = ""  # of the line at hand, what has passed
        self._in_code = False

    def push(self, text: str) -> list[Segment]:
        """Answer text and calls, as far as they are certain."""
        self._held += text
        segments: list[Segment] = []
        while self._held and (taken := self._take()) is not None:
            segments.append(taken)
        return segments

    def flush(self) -> list[Segment]:
        """What was held back when the answer ended: the start of a marker is text, an unclosed call a call."""
        text, self._held = self._held, ""
        if _begins_call(text):
            return [Segment("tool_call", text.removeprefix(OPEN_CALL).strip())]
        return [Segment("answer", text)] if text else []

    def _take(self) -> Segment | None:
        """The next of what is held; `None` while more text has to come before it is certain."""
        begins = False if self._line or self._in_code else _begins_call(self._held)
        if begins is False:
            return self._text()
        body, closed, rest = self._held.removeprefix(OPEN_CALL).partition(CLOSE_CALL)
        if not closed:
            return None
        self._held = rest
        return Segment("tool_call", body.strip())

    def _text(self) -> Segment:
        passed, newline, self._held = self._held.partition("\n")
        self._line += passed
        if newline:
            self._in_code ^= self._line.lstrip().startswith(_FENCES)
            self._line = ""
        return Segment("answer", passed + newline)


def _begins_call(text: str) -> bool | None:
    """Whether a call begins here; `None` while that is not certain."""
    if not text.startswith(OPEN_CALL):
        return None if OPEN_CALL.startswith(text) else False
    body = text.removeprefix(OPEN_CALL).lstrip()
    if body.startswith(_CALLS):
        return True
    return None if any(start.startswith(body) for start in _CALLS) else False


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
