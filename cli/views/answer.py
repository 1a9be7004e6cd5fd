"""An answer while it streams: the thought dim and apart, then the answer itself."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from rich.console import Console
from rich.status import Status

from cli.views.stats import seconds
from mlx_qnext.generate.events import TokensEmitted
from mlx_qnext.transcript import Segment


class AnswerView:
    """Prints segments as they come.

    A thought that is shown streams dim under its own heading; a hidden one is a line that counts while it lasts, on a terminal.
    Either way it ends in one dim line with its length and time, and the answer starts on a line of its own.

    Args:
        out: where the answer goes. err: where the thought and its line go.
        show_thinking: whether the thought's text is printed.
    """

    def __init__(
        self, out: Console, err: Console, *, show_thinking: bool, clock: Callable[[], float] = monotonic
    ) -> None:
        self._out, self._err, self._show, self._clock = out, err, show_thinking, clock
        self._thinking_since: float | None = None
        self._thinking_tokens = 0
        self._status: Status | None = None
        self._line_open = False

    def update(self, group: TokensEmitted) -> None:
        """Print what became certain with these tokens."""
        for segment in group.segments:
            if segment.kind == "thinking":
                self._think(segment)
            else:
                self._answer(segment.text)
        if self._thinking_since is not None:
            self._thinking_tokens += len(group.token_ids)
            self._count()

    def finish(self) -> None:
        """Close whatever line is open."""
        self._end_thought()
        if self._line_open:
            self._out.print()
            self._line_open = False

    def _think(self, segment: Segment) -> None:
        if self._thinking_since is None:
            self._thinking_since = self._clock()
            if self._show:
                self._err.print("thinking", style="dim italic")
        if self._show:
            self._err.print(segment.text, style="dim", end="")

    def _count(self) -> None:
        if self._show or not self._err.is_terminal:
            return
        if self._status is None:
            self._status = self._err.status("", spinner="dots")
            self._status.start()
        self._status.update(f"[dim]thinking {self._thought()}")

    def _answer(self, text: str) -> None:
        self._end_thought()
        self._out.print(text, end="")
        # Rich writes when a line is complete; a streamed answer should not wait for that.
        self._out.file.flush()
        self._line_open = not text.endswith("\n")

    def _end_thought(self) -> None:
        if self._thinking_since is None:
            return
        if self._status is not None:
            self._status.stop()
            self._status = None
        if self._show:
            self._err.print()
        self._err.print(f"thought for {self._thought()}\n", style="dim italic")
        self._thinking_since = None

    def _thought(self) -> str:
        assert self._thinking_since is not None
        return f"{seconds(self._clock() - self._thinking_since)} · {self._thinking_tokens} tokens"
