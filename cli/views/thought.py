"""A thought while it lasts, apart from the answer, and the one line that stays of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from itertools import islice

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.style import Style, StyleType
from rich.text import Text

from cli.terminal import visible
from cli.views.flow import Flow
from cli.views.live import Line, rendered
from cli.views.painter import Painter
from cli.views.units import seconds, size, token_count

_TAIL_LINES = 6
# Heading, the line under the region, and one to spare: a region taller than the screen cannot be erased.
_OTHER_LINES = 3
_BAR = "│ "
# More than six lines of the widest terminal; what came before is not kept.
_TAIL_CHARACTERS = 4096
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_TURNS_PER_S = 10
# Digits of less say nothing about a thought.
_SHORTEST_S = 0.01
_DIM = Style(dim=True)


class Thinking(StrEnum):
    """What becomes of a thought on screen: it stays, it collapses to one line when it ends, or it is only counted."""

    show = "show"
    collapse = "collapse"
    hide = "hide"


class ThoughtView:
    """Prints one thought as it comes; closed, it leaves a dim line with its time and length.

    Shown, it streams dim under a heading, above a line that counts. One that collapses has its last lines in a region that is
    erased at the end; hidden, that region only counts. Where a cursor cannot be moved there is no such region: a
    thought that would collapse streams, a hidden one is silent.
    """

    def __init__(self, err: Console, mode: Thinking, clock: Callable[[], float]) -> None:
        self._err, self._clock = err, clock
        self._since = clock()
        self._tokens = self._read_bytes = 0
        self._line_open = False
        self._flow = Flow() if mode is Thinking.show else None
        self._tail = _Tail(self._heading, keeps_text=mode is Thinking.collapse)
        self._writes = mode is not Thinking.hide and not err.is_interactive
        self._painter: Painter | None = None
        if err.is_interactive:
            footer = self._footer if self._flow else _no_footer
            self._painter = Painter(err, self._flow or self._tail, footer, clock)
        if self._writes or self._flow:
            err.print("thinking", style="dim italic")

    def add(self, text: str, style: StyleType = "") -> None:
        """More of the thought; the style tells which step it came with."""
        if self._writes:
            self._err.print(visible(text), style="dim", end="")
            self._line_open = not text.endswith("\n")
        elif self._flow is not None:
            self._flow.add(visible(text), style if isinstance(style, Style) and style else _DIM)
        else:
            self._tail.add(visible(text))

    def count(self, tokens: int) -> None:
        """More tokens went into it."""
        self._tokens += tokens

    def read(self, nbytes: int) -> None:
        """So much of the experts has been read for the answer so far."""
        self._read_bytes = nbytes

    def end_line(self) -> None:
        """What others print next begins a line, where no painter sees to that."""
        if self._line_open:
            self._err.print()
            self._line_open = False

    @property
    def painter(self) -> Painter | None:
        """Where there is something to repaint."""
        return self._painter

    def close(self) -> None:
        """The region is gone, the line is printed, and what comes next starts below it."""
        if self._painter is not None:
            self._painter.close()
        self.end_line()
        self._err.print(f"thought for {self._length()}\n", style="dim italic")

    def _footer(self, width: int) -> Line | None:
        return rendered(self._err, self._heading(), width)[0]

    def _heading(self) -> Text:
        turn = int(self._clock() * _TURNS_PER_S) % len(_SPINNER)
        read = f" · {size(self._read_bytes)} of experts read" if self._read_bytes else ""
        text = f"{_SPINNER[turn]} thinking {self._length()}{read}"
        return Text(text, style="dim", no_wrap=True, overflow="ellipsis")

    def _length(self) -> str:
        elapsed_s = self._clock() - self._since
        return f"{seconds(elapsed_s if elapsed_s >= _SHORTEST_S else 0)} · {token_count(self._tokens)}"


def _no_footer(_width: int) -> Line | None:
    return None


class _Tail:
    """The last lines of a thought, under a heading; nothing of them stays."""

    def __init__(self, heading: Callable[[], Text], *, keeps_text: bool) -> None:
        self._heading, self._keeps_text = heading, keeps_text
        self._text = ""

    def add(self, text: str) -> None:
        """More of it."""
        if self._keeps_text:
            self._text += text
        if len(self._text) > 2 * _TAIL_CHARACTERS:
            self._text = self._text[-_TAIL_CHARACTERS:]

    def end(self) -> None:
        """It is over."""

    def finished(self, _console: Console, _width: int) -> list[Line]:
        """None."""
        return []

    def unfinished(self, console: Console, width: int, _rows: int) -> list[Line]:
        """All that is shown."""
        return rendered(console, Region(self._heading(), self._text), width)


class Region:
    """A heading over the last lines of a text, as wide and as high as the terminal allows."""

    def __init__(self, heading: RenderableType, text: str) -> None:
        self._heading, self._text = heading, text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._heading
        height = max(1, min(_TAIL_LINES, console.height - _OTHER_LINES))
        width = max(1, options.max_width - len(_BAR))
        yield from reversed(list(islice(self._lines_from_the_end(console, width), height)))

    def _lines_from_the_end(self, console: Console, width: int) -> Iterator[Text]:
        # Line by line from the end: a long thought is not wrapped anew ten times a second.
        for paragraph in reversed(self._text.rstrip("\n").split("\n")) if self._text else ():
            for line in reversed(Text(paragraph, style="dim").wrap(console, width) or [Text()]):
                yield Text(_BAR, style="dim").append_text(line)
