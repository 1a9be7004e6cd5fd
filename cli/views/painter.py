"""When a stream is painted: soon after something came, and so rarely that it costs next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event, Thread
from typing import Protocol

from rich.console import Console
from rich.text import Text

from cli.views.live import Line, LiveRegion, rendered

_PAINTS_PER_S = 12
# A paint that took long is followed by a pause so many times as long: this bounds the share of a core.
_REST = 25
_LONGEST_REST_S = 0.5
# Between what a terminal is and what it told of its size may be a while, a quarter of a second in tmux. How many rows a region
# takes up is known once it has kept its size for longer.
_SETTLES_S = 0.3
# On the highest screen: all of them are sent again with each paint.
_MOST_ROWS = 24


class Stream(Protocol):
    """What comes in pieces and is shown in lines."""

    def end(self) -> None:
        """No more comes."""
        ...

    def finished(self, console: Console, width: int, /) -> list[Line]:
        """The lines that nothing changes any more; each is given once."""
        ...

    def unfinished(self, console: Console, width: int, rows: int, /) -> list[Line]:
        """At most so many lines of the rest."""
        ...


class Painter:
    """Shows one stream at the bottom of a terminal, above a line of figures.

    Args:
        footer: that line, for a width; `None` where there is none.
    """

    def __init__(
        self,
        console: Console,
        stream: Stream,
        footer: Callable[[int], Line | None],
        clock: Callable[[], float],
    ) -> None:
        self._console, self._stream, self._footer, self._clock = console, stream, footer, clock
        self._region = LiveRegion(console)
        self._next_s = self._settled_s = 0.0
        self._size: tuple[int, int] | None = None

    def repaint(self) -> None:
        """Paint what came, unless it was done just now, or the terminal is being resized."""
        began = self._clock()
        if began < self._next_s or not self._is_settled(began):
            return
        self._paint()
        cost_s = self._clock() - began
        self._next_s = began + max(1 / _PAINTS_PER_S, min(_REST * cost_s, _LONGEST_REST_S))

    def _is_settled(self, now_s: float) -> bool:
        size = self._console.size
        if size != self._size:
            self._settled_s = now_s if self._size is None else now_s + _SETTLES_S
            self._size = size
        return now_s >= self._settled_s

    def close(self) -> None:
        """Everything is printed for good, and nothing else is left."""
        self._stream.end()
        self._region.paint(self._stream.finished(self._console, self._width()), ())

    def begin_below(self) -> None:
        """What was painted stays as it is; the rest is painted from the cursor on."""
        self._region.leave()

    def note(self, text: Text) -> None:
        """Print a line above what is unfinished."""
        self._paint(rendered(self._console, text, self._width()))

    def _paint(self, notes: Sequence[Line] = ()) -> None:
        width, height = self._width(), self._console.height
        finished = [*self._stream.finished(self._console, width), *notes]
        footer = self._footer(width)
        feet = [] if footer is None else [footer]
        # Where the screen becomes half as wide, or half as high, the region still fits, and can be erased.
        rows = max(1, min(height // 2 - 1 - len(feet), _MOST_ROWS))
        self._region.paint(finished, [*self._stream.unfinished(self._console, width, rows), *feet])

    def _width(self) -> int:
        return max(2, self._console.width)


class Pulse:
    """Calls again and again from a thread, so that a pause leaves nothing unseen and seconds are counted."""

    def __init__(self, beat: Callable[[], None], period_s: float = 1 / _PAINTS_PER_S) -> None:
        self._beat, self._period_s = beat, period_s
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """It is not called any more once this returns."""
        self._stopped.set()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether it may beat."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopped.wait(self._period_s):
            try:
                self._beat()
            except OSError:  # the terminal is gone: whoever writes next is told
                return
