"""An answer while it streams: the thought dim and apart, then the answer itself."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from rich.console import Console

from cli.terminal import visible
from cli.views.thought import Thinking, ThoughtView
from mlx_qnext.generate.events import ExpertStats, TokensEmitted


class AnswerView:
    """Prints segments as they come: each thought in a view of its own, the answer below it.

    Off a terminal the answer's text is written as it is, to the character. On one, control characters show as symbols.

    Args:
        out: where the answer goes. err: where the thought and its line go.
        thinking: what becomes of the thought's text.
    """

    def __init__(
        self, out: Console, err: Console, thinking: Thinking, clock: Callable[[], float] = monotonic
    ) -> None:
        self._out, self._err, self._thinking, self._clock = out, err, thinking, clock
        self._thought: ThoughtView | None = None
        self._line_open = False

    def update(self, group: TokensEmitted) -> None:
        """Print what became certain with these tokens."""
        for segment in group.segments:
            if segment.kind == "thinking":
                self._think(segment.text)
            else:
                self._answer(segment.text)
        if self._thought is not None:
            self._thought.count(len(group.token_ids))

    def experts(self, stats: ExpertStats) -> None:
        """Experts were read: said in the region of the thought that is open, where there is one."""
        if self._thought is not None:
            self._thought.read(stats.read_bytes)

    def finish(self) -> None:
        """Close whatever is open: the thought's region, the answer's line."""
        self._end_thought()
        if self._line_open:
            self._write("\n")

    def _think(self, text: str) -> None:
        if self._thought is None:
            self._thought = ThoughtView(self._err, self._thinking, self._clock)
        self._thought.add(text)

    def _answer(self, text: str) -> None:
        self._end_thought()
        self._write(visible(text) if self._out.is_terminal else text)

    def _write(self, text: str) -> None:
        # Past Rich, which expands tabs and drops carriage returns; flushed, so that the answer streams through a pipe too.
        self._out.file.write(text)
        self._out.file.flush()
        self._line_open = not text.endswith("\n")

    def _end_thought(self) -> None:
        if self._thought is not None:
            self._thought.close()
            self._thought = None
