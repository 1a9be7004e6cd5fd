"""An answer while it streams: the thought dim and apart, then the answer itself."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from time import monotonic
from typing import TYPE_CHECKING

from rich.console import Console
from rich.style import Style
from rich.text import Text

from cli.terminal import note, visible
from cli.views.flow import Flow
from cli.views.live import Line, rendered
from cli.views.painter import Painter, Pulse
from cli.views.shading import Shading
from cli.views.status import Figures, Setting
from cli.views.thought import Thinking, ThoughtView
from cli.views.tool_calls import UnofferedCalls, call_line
from mlx_qnext.generate.events import ExpertStats, PrefillProgress, TokensEmitted
from mlx_qnext.transcript import Segment

if TYPE_CHECKING:
    from cli.views.markdown import MarkdownStream

_UNNAMED = Setting()


class AnswerView:
    """Prints segments as they come: each thought in a view of its own, the answer below it.

    On a terminal the answer is Markdown, above a line of figures; finished blocks are printed for good. Where a cursor cannot
    be moved it streams as plain text; off a terminal that text is written as it is, to the character. On a terminal,
    control characters show as symbols.

    Args:
        out: where the answer goes. err: where the thought and its line go.
        thinking: what becomes of the thought's text.
        setting: what the line of figures says beside what events tell.
        show_steps: groups of tokens are shaded, and the answer is plain text.
        beats: pauses are painted too, from a thread; without it only events are.
    """

    def __init__(
        self,
        out: Console,
        err: Console,
        thinking: Thinking,
        clock: Callable[[], float] = monotonic,
        *,
        setting: Setting = _UNNAMED,
        show_steps: bool = False,
        beats: bool = True,
    ) -> None:
        self._out, self._err, self._thinking, self._clock = out, err, thinking, clock
        self._figures = Figures(setting, clock)
        self._shading = Shading(out) if show_steps else None
        self._beats = beats
        self._pulse: Pulse | None = None
        self._lock = RLock()
        self._thought: ThoughtView | None = None
        self._calls = UnofferedCalls()
        self._stream: MarkdownStream | Flow | None = None
        self._painter: Painter | None = None
        self._line_open = False

    def prefill(self, progress: PrefillProgress) -> None:
        """The prompt is read so far."""
        self._figures.prefill(progress)

    def update(self, group: TokensEmitted) -> None:
        """Show what became certain with these tokens."""
        with self._lock:
            self._figures.emitted(group)
            style = self._shading.style(len(group.token_ids)) if self._shading else Style()
            for segment in group.segments:
                self._add(segment, style)
            if self._thought is not None:
                self._thought.count(len(group.token_ids))
            self._repaint()
        if self._painter is not None and self._beats and self._pulse is None:
            self._pulse = Pulse(self._beat)

    def experts(self, stats: ExpertStats) -> None:
        """Experts were read: said with the figures, and in the region of the thought that is open, where there is one."""
        with self._lock:
            self._figures.experts(stats)
            if self._thought is not None:
                self._thought.read(stats.read_bytes)
            self._repaint()

    def notice(self, text: str) -> None:
        """Print a sentence that is not part of the answer, above what is unfinished."""
        with self._lock:
            if self._painter is not None:
                self._painter.note(Text(visible(text), style="dim"))
                return
            if self._thought is not None:
                self._thought.end_line()
            self._leave_line()
            note(self._err, text)

    def begin_below(self) -> None:
        """Others wrote to the terminal: what is unfinished is shown again below that, and nothing of theirs is erased."""
        with self._lock:
            if self._painter is not None:
                self._painter.begin_below()

    def finish(self) -> None:
        """Close whatever is open: the thought's region, the answer's line. What was said stays, and nothing is live."""
        try:
            with self._lock:
                self._end_thought()
                for held in self._calls.flush():
                    self._answer(held, Style())
                self._end_answer()
        finally:
            if self._pulse is not None:
                self._pulse.stop()
                self._pulse = None

    def _beat(self) -> None:
        with self._lock:
            self._repaint()

    def _repaint(self) -> None:
        if self._painter is not None:
            self._painter.repaint()

    def _add(self, segment: Segment, style: Style) -> None:
        if segment.kind == "thinking":
            self._think(segment.text, style)
            return
        self._end_thought()
        if segment.kind == "answer" and self._out.is_terminal:
            found = self._calls.push(segment.text)
        else:
            found = [*self._calls.flush(), segment]
        for each in found:
            self._answer(each, style)

    def _answer(self, segment: Segment, style: Style) -> None:
        if segment.kind == "tool_call":
            self._call(segment.text)
        elif not self._out.is_interactive:
            self._write(visible(segment.text) if self._out.is_terminal else segment.text)
        elif isinstance(stream := self._answer_stream(), Flow):
            stream.add(visible(segment.text), style)
        else:
            stream.add(visible(segment.text))

    def _think(self, text: str, style: Style) -> None:
        if self._thought is None:
            self._end_answer()
            self._thought = ThoughtView(self._err, self._thinking, self._clock)
            self._painter = self._thought.painter
        self._thought.add(text, style)

    def _call(self, body: str) -> None:
        if self._out.is_interactive:
            self._answer_stream().note(call_line(body))
            return
        self._leave_line()
        self._err.print(call_line(body))

    def _leave_line(self) -> None:
        """What is printed to the other stream begins a line where both are on one screen."""
        if self._line_open and self._out.is_terminal:
            self._write("\n")

    def _answer_stream(self) -> MarkdownStream | Flow:
        if self._stream is None:
            self._stream = Flow() if self._shading else _markdown()
            self._painter = Painter(self._out, self._stream, self._footer, self._clock)
        return self._stream

    def _footer(self, width: int) -> Line:
        return rendered(self._out, Text(self._figures.line(width), style="dim", no_wrap=True), width)[0]

    def _write(self, text: str) -> None:
        # Past Rich, which expands tabs and drops carriage returns; flushed, so that the answer streams through a pipe too.
        self._out.file.write(text)
        self._out.file.flush()
        self._line_open = not text.endswith("\n")

    def _end_thought(self) -> None:
        if self._thought is not None:
            thought, self._thought, self._painter = self._thought, None, None
            thought.close()

    def _end_answer(self) -> None:
        painter, self._painter, self._stream = self._painter, None, None
        if painter is not None:
            painter.close()
        if self._line_open:
            self._write("\n")


def _markdown() -> MarkdownStream:
    # Its parser and lexers take a tenth of a second to import; only a terminal needs them.
    from cli.views.markdown import MarkdownStream

    return MarkdownStream()
