"""A thought while it lasts, apart from the answer, and the one line that stays of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from itertools import islice

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from cli.terminal import visible
from cli.views.units import seconds, size

_TAIL_LINES = 6
# Heading, the line under the region, and one to spare: a region taller than the screen cannot be erased.
_OTHER_LINES = 3
_BAR = "│ "


class Thinking(StrEnum):
    """What becomes of a thought on screen: it stays, it is folded away when it ends, or it is only counted."""

    show = "show"
    fold = "fold"
    hide = "hide"


class ThoughtView:
    """Prints one thought as it comes; closed, it leaves a dim line with its time and length.

    Shown, it streams dim under a heading. Folded, its last lines stand in a region that is erased at the end; hidden,
    that region only counts. Off a terminal there is no such region: a folded thought streams, a hidden one is silent.
    """

    def __init__(self, err: Console, mode: Thinking, clock: Callable[[], float]) -> None:
        self._err, self._clock = err, clock
        self._since = clock()
        self._text = ""
        self._tokens = self._read_bytes = 0
        self._streams = mode is Thinking.show or (mode is Thinking.fold and not err.is_terminal)
        self._keeps_tail = mode is Thinking.fold
        self._spinner = Spinner("dots", style="dim")
        self._region: Live | None = None
        if self._streams:
            err.print("thinking", style="dim italic")
        elif err.is_terminal:
            self._region = Live(
                get_renderable=self._render, console=err, transient=True, refresh_per_second=10
            )
            self._region.start()

    def add(self, text: str) -> None:
        """More of the thought."""
        if self._streams:
            self._err.print(visible(text), style="dim", end="")
        elif self._keeps_tail:
            self._text += visible(text)

    def count(self, tokens: int) -> None:
        """More tokens went into it."""
        self._tokens += tokens

    def read(self, nbytes: int) -> None:
        """So much of the experts has been read for the answer so far."""
        self._read_bytes = nbytes

    def close(self) -> None:
        """The region is gone, the line is printed, and what comes next starts below it."""
        if self._region is not None:
            self._region.stop()
        if self._streams:
            self._err.print()
        self._err.print(f"thought for {self._length()}\n", style="dim italic")

    def _render(self) -> RenderableType:
        read = f" · {size(self._read_bytes)} of experts read" if self._read_bytes else ""
        self._spinner.update(text=Text(f"thinking {self._length()}{read}", style="dim"))
        return Region(self._spinner, self._text)

    def _length(self) -> str:
        return f"{seconds(self._clock() - self._since)} · {self._tokens} tokens"


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
