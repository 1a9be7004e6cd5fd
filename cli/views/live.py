"""The bottom of a terminal while something streams: what is finished is printed for good, the rest is painted again."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment

Line: TypeAlias = list[Segment]

# Shown at once where the terminal knows how to (DEC private mode 2026); others ignore it.
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
# Where a terminal may find a line wider than it was measured, it is cut off, and the rows that are counted stay true.
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"
_EMOJI = re.compile("[\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001ffff]")
_ERASE_LINE, _ERASE_BELOW = "\x1b[K", "\x1b[J"


def rendered(console: Console, renderable: RenderableType, width: int) -> list[Line]:
    """The lines of anything that Rich renders, without the spaces that fill them up."""
    options = console.options.update(width=width, height=None)
    return [trimmed(line) for line in console.render_lines(renderable, options, pad=False)]


def trimmed(line: Line) -> Line:
    """The line without spaces at its end, which a narrower terminal would break into empty lines."""
    kept = list(line)
    while kept and not kept[-1].text.rstrip(" ") and not _is_seen(kept[-1]):
        kept.pop()
    if kept and not _is_seen(kept[-1]):
        kept[-1] = Segment(kept[-1].text.rstrip(" "), kept[-1].style)
    return kept


def _is_seen(segment: Segment) -> bool:
    """Whether its spaces show."""
    style = segment.style
    return style is not None and bool(style.bgcolor or style.underline or style.reverse)


class LiveRegion:
    """Lines at the cursor that can be painted again; whatever stands above them is never touched.

    Args:
        console: on a terminal that can move its cursor.
        reflows: whether that terminal breaks long lines anew when it becomes narrower; by default as its name says.
    """

    def __init__(self, console: Console, *, reflows: bool | None = None) -> None:
        self._console = console
        self._reflows = breaks_lines_anew(os.environ) if reflows is None else reflows
        self._lines: list[str] = []

    def paint(self, finished: Sequence[Line], live: Sequence[Line]) -> None:
        """Print finished lines above the region, and these lines in it; none of the latter may be wider than the screen."""
        if not finished and not live and not self._lines:
            return
        segments = [Segment(_BEGIN + self._to_the_top())]
        if finished:
            # They may wrap, over rows that are not empty.
            segments.append(Segment(_ERASE_BELOW))
        for line in finished:
            segments += [*line, Segment("\n")]
        self._lines = ["".join(segment.text for segment in line) for line in live]
        for row, line in enumerate(live, 1):
            last = row == len(live)
            segments.append(Segment(_ERASE_BELOW if last else _ERASE_LINE))
            # The terminal may just now have become narrower. One that breaks lines anew has as many rows of a line then,
            # whether it became so before or after: unless the line was cut off before.
            breaks = self._reflows and _is_surely_measured(self._lines[row - 1])
            segments += line if breaks else [Segment(_NO_WRAP), *line, Segment(_WRAP)]
            segments += [] if last else [Segment("\n")]
        segments.append(Segment(("" if live else _ERASE_BELOW) + _END))
        self._console.print(_Frame(segments), end="", soft_wrap=True)

    def close(self) -> None:
        """Erase the region; the cursor stands where it began."""
        self.paint((), ())

    def leave(self) -> None:
        """Begin anew at the cursor; what was painted stays."""
        self._lines = []

    def _to_the_top(self) -> str:
        up = self._rows() - 1
        return ("\r" if self._lines else "") + (f"\x1b[{up}A" if up > 0 else "")

    def _rows(self) -> int:
        """How many rows the region takes up by now. Too many would erase what is finished; too few leave a trace."""
        width, height = self._console.size
        if not self._reflows:
            return len(self._lines)
        return min(height, sum(max(1, len(chop_cells(line, width))) for line in self._lines))


def _is_surely_measured(text: str) -> bool:
    """Whether terminals agree on its width: not on that of emoji, nor of characters that join others."""
    return text.isascii() or not any(_EMOJI.match(char) or not cell_len(char) for char in text)


def breaks_lines_anew(environment: Mapping[str, str]) -> bool:
    """Whether a terminal is one of those that do so when they become narrower: nearly all that say their name."""
    if "STY" in environment or environment.get("TERM", "").startswith(("linux", "rxvt")):
        return False
    names = ("TERM_PROGRAM", "VTE_VERSION", "KITTY_WINDOW_ID", "ALACRITTY_WINDOW_ID", "TMUX")
    return any(environment.get(name) for name in names)


class _Frame:
    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return self._segments
