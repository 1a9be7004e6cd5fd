"""Styled text that is wrapped while it comes: a line is finished once the next one has begun."""

from __future__ import annotations

import re
from itertools import accumulate

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.style import StyleType
from rich.text import Text

from cli.views.live import Line, rendered

_WORD = re.compile(r"\S+\s*|\s+")
_TAB_CELLS = 8


class Flow:
    """Wraps text between words; how it is cut into pieces does not change its lines, as long as the width stays."""

    def __init__(self) -> None:
        self._rest = Text()

    def add(self, text: str, style: StyleType = "") -> None:
        """More text, without control characters but for newlines and tabs."""
        self._rest.append(text, style)

    def end(self) -> None:
        """No more comes: the last line is finished too."""
        if self._rest and not self._rest.plain.endswith("\n"):
            self._rest.append("\n")

    def note(self, line: Text) -> None:
        """A line of its own."""
        self.end()
        self._rest.append_text(line).append("\n")

    def finished(self, console: Console, width: int) -> list[Line]:
        """The lines that are finished and were not before."""
        *lines, self._rest = self._lines(width)
        return [line for text in lines for line in _line(console, text, width)]

    def unfinished(self, console: Console, width: int, rows: int) -> list[Line]:
        """The line that is being written."""
        lines = self._lines(width) if self._rest else []
        return [line for text in lines[-rows:] for line in _line(console, text, width)]

    def _lines(self, width: int) -> list[Text]:
        """All lines but the last are finished; the last is the rest."""
        lines = []
        for paragraph in self._rest.split("\n", allow_blank=True):
            lines += paragraph.divide(breaks(paragraph.plain, width))
        return lines or [Text()]


def breaks(text: str, width: int) -> list[int]:
    """Where to break one line of text: before a word that does not fit any more, and within one that never would.

    More text at its end never moves a break, but for one within the last word.
    """
    found: list[int] = []
    used = position = 0
    for word in _WORD.findall(text):
        bare = word.rstrip()
        cells = _cells(bare)
        if used and used + cells > width:
            found.append(position)
            used = 0
        if cells > width:
            *chunks, bare = chop_cells(bare, max(width, 2))
            found += accumulate(map(len, chunks[1:]), initial=position + len(chunks[0]))
        used += _cells(bare + word[len(word.rstrip()) :])
        position += len(word)
    return found


def _cells(text: str) -> int:
    """A tab counts as much as it may take up."""
    return cell_len(text.expandtabs(1)) + (_TAB_CELLS - 1) * text.count("\t")


def _line(console: Console, text: Text, width: int) -> list[Line]:
    shown = text.copy()
    shown.expand_tabs(_TAB_CELLS)
    shown.no_wrap, shown.overflow = True, "crop"
    return rendered(console, shown, width) or [[]]
