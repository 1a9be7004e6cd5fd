"""Splits what the model writes into thinking, answer and tool calls, while it is being written.

The markers are text, as Qwen3's chat templates have them: `<think>`, `</think>`, `<tool_call>`, `</tool_call>`.
They never appear in a segment, and neither do the newlines that the templates put next to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["thinking", "answer", "tool_call"]
_Part = Literal["start", "thinking", "answer", "tool_call"]

OPEN_THOUGHT = "<think>"
CLOSE_THOUGHT = "</think>"
# As the templates write the end of a thought that is past.
THOUGHT_END = f"\n{CLOSE_THOUGHT}\n\n"
OPEN_CALL = "<tool_call>"
CLOSE_CALL = "</tool_call>"


@dataclass(frozen=True)
class Segment:
    """Text of one kind. Thinking and answer come in any number of pieces, a tool call always as one."""

    kind: Kind
    text: str


class Transcript:
    """Reads one answer as it comes; how it is cut into pushes does not change what comes out, joined by kind.

    - `<think>` is a marker only at the very start, after optional whitespace; later it is text.
    - The first `</think>` is a marker even where no thought is open; later ones are text.
    - With `tools`, a call's body comes as one segment, stripped, when the call is closed; at `flush` when it
      never is. Without `tools` its markers are answer text. Inside a thought they are always text.
    - Leading newlines of the thought, of the answer after a thought and of text after a call are dropped,
      and so is all whitespace before `</think>` and `<tool_call>`.

    Args:
        opens_thinking: the prompt ends in an open `<think>`, so the model's first text is a thought.
        tools: the request offered tools.
    """

    def __init__(self, opens_thinking: bool, tools: bool) -> None:
        self._opens_thinking = opens_thinking
        self._tools = tools
        self._part: _Part = "start"
        self._held = ""  # not certain yet: it may be, or precede, a marker
        self._body: list[str] = []  # the open call so far
        self._skips_newlines = opens_thinking
        self._may_close_thought = True

    @property
    def thinks(self) -> bool:
        """Whether a thought is open."""
        return self._part == "thinking" or (self._part == "start" and self._opens_thinking)

    def push(self, text: str) -> list[Segment]:
        """The segments certain once `text` has come; often none, never an empty thought or answer."""
        self._held += text
        segments: list[Segment] = []
        while self._advance(segments):
            pass
        return segments

    def flush(self) -> list[Segment]:
        """What was held back when the answer ended: an unfinished marker is text, an unclosed call a call."""
        segments: list[Segment] = []
        if self._part == "start":
            self._leave_start()
        self._skip_newlines()
        if self._part == "tool_call":
            self._close_call(self._held, segments)
        else:
            self._emit(self._held, segments)
        self._held = ""
        return segments

    def _advance(self, segments: list[Segment]) -> bool:
        """Consumes `_held` up to and with the next marker; `False` when more text is needed to go on."""
        if self._part == "start":
            return self._read_start()
        self._skip_newlines()
        found = [(self._held.find(marker), marker) for marker in self._markers()]
        at, marker = min(((at, marker) for at, marker in found if at >= 0), default=(-1, ""))
        if not marker:
            self._release(segments)
            return False
        before, self._held = self._held[:at], self._held[at + len(marker) :]
        self._cross(marker, before, segments)
        return True

    def _skip_newlines(self) -> None:
        if self._skips_newlines:
            self._held = self._held.lstrip("\n")
            self._skips_newlines = not self._held

    def _read_start(self) -> bool:
        text = self._held.lstrip()
        for marker in (OPEN_THOUGHT, CLOSE_THOUGHT):
            if text.startswith(marker):
                self._held = text.removeprefix(marker)
                self._part = "thinking" if marker == OPEN_THOUGHT else "answer"
                self._may_close_thought = marker == OPEN_THOUGHT
                self._skips_newlines = True
                return True
            if marker.startswith(text):
                return False
        self._leave_start()
        return True

    def _leave_start(self) -> None:
        self._part = "thinking" if self._opens_thinking else "answer"

    def _markers(self) -> tuple[str, ...]:
        if self._part == "thinking":
            return (CLOSE_THOUGHT,)
        if self._part == "tool_call":
            return (CLOSE_CALL,)
        return ((CLOSE_THOUGHT,) if self._may_close_thought else ()) + ((OPEN_CALL,) if self._tools else ())

    def _cross(self, marker: str, before: str, segments: list[Segment]) -> None:
        if marker == CLOSE_CALL:
            self._close_call(before, segments)
        elif self._part == "answer" and marker == CLOSE_THOUGHT:
            self._may_close_thought = False
            self._emit(before, segments)
        else:
            self._emit(before.rstrip(), segments)
            self._part = "answer" if marker == CLOSE_THOUGHT else "tool_call"
            self._skips_newlines = True
            self._may_close_thought &= marker != CLOSE_THOUGHT

    def _close_call(self, rest: str, segments: list[Segment]) -> None:
        segments.append(Segment("tool_call", "".join([*self._body, rest]).strip()))
        self._body = []
        self._part = "answer"
        self._skips_newlines = True

    def _release(self, segments: list[Segment]) -> None:
        """Emits what no later text can turn into a marker or into whitespace before one."""
        certain = self._held[: len(self._held) - self._marker_start_length()]
        if self._part == "thinking" or (self._part == "answer" and self._tools):
            certain = certain.rstrip()
        self._held = self._held[len(certain) :]
        if self._part == "tool_call":
            self._body.append(certain)
        else:
            self._emit(certain, segments)

    def _marker_start_length(self) -> int:
        start = self._held.rfind("<")
        tail = self._held[start:] if start >= 0 else ""
        return len(tail) if any(marker.startswith(tail) for marker in self._markers()) else 0

    def _emit(self, text: str, segments: list[Segment]) -> None:
        if text:
            segments.append(Segment("thinking" if self._part == "thinking" else "answer", text))
