"""Markdown while it is being written: finished blocks, and finished lines of code, one after the other."""

from __future__ import annotations

from itertools import dropwhile

from rich.console import Console
from rich.text import Text

from cli.views.blocks import Block, Blocks, CodeEnd, CodeLine, CodeStart, Piece
from cli.views.document import Document, code_end, code_start
from cli.views.flow import breaks
from cli.views.highlight import Highlighter
from cli.views.live import Line, rendered

_EMPTY: Line = []


class MarkdownStream:
    """Lines of Markdown that comes in pieces; how it is cut into them does not change its lines, as long as the width stays."""

    def __init__(self) -> None:
        self._blocks = Blocks()
        self._ready: list[Piece | Text] = []
        self._begun = False
        self._number: int | None = None
        self._code = Highlighter("")
        self._shown: tuple[object, list[Line]] = (None, [])

    def add(self, text: str) -> None:
        """More of it, without control characters but for newlines and tabs."""
        self._ready += self._blocks.push(text)

    def end(self) -> None:
        """No more comes: what is open is finished."""
        self._ready += self._blocks.end()

    def note(self, line: Text) -> None:
        """A line of its own, which is not Markdown."""
        self.end()
        self._ready.append(line)

    def finished(self, console: Console, width: int) -> list[Line]:
        """The lines that are finished and were not before."""
        pieces, self._ready = self._ready, []
        return [line for piece in pieces for line in self._lines(console, piece, width)]

    def unfinished(self, console: Console, width: int, rows: int) -> list[Line]:
        """The last lines of the block that is being written; plain ones, where it is too long to be seen as a whole."""
        piece = self._blocks.open
        key = (piece, width, rows, self._begun)
        if key != self._shown[0]:
            self._shown = key, self._unfinished(console, piece, width, rows)
        return self._shown[1]

    def _unfinished(
        self, console: Console, piece: Block | CodeLine | None, width: int, rows: int
    ) -> list[Line]:
        if piece is None:
            return []
        if isinstance(piece, CodeLine):
            return _wrapped(console, self._code.open(piece.text), width)[-rows:]
        if len(piece.source) > width * rows:
            return _tail(console, piece.source, width, rows)
        document = Document(piece.source, self._number if piece.continues else None)
        return [*self._gap(piece), *_laid_out(console, document, width)][-rows:]

    def _lines(self, console: Console, piece: Piece | Text, width: int) -> list[Line]:
        gap = self._gap(piece)
        self._begun = True
        if isinstance(piece, CodeLine):
            # Not broken: copied from the terminal, it is the line as it was written.
            return [list(self._code.line(piece.text).render(console))]
        if isinstance(piece, Block):
            document = Document(piece.source, self._number if piece.continues else None)
            self._number = document.next_number
            return gap + _laid_out(console, document, width)
        if isinstance(piece, CodeStart):
            self._code = Highlighter(piece.info)
            piece = code_start(piece.info)
        elif isinstance(piece, CodeEnd):
            piece = code_end()
        return gap + _wrapped(console, piece, width)

    def _gap(self, piece: Piece | Text) -> list[Line]:
        """An empty line before each block but the first."""
        goes_on = isinstance(piece, CodeLine | CodeEnd) or (isinstance(piece, Block) and piece.continues)
        return [_EMPTY] if self._begun and not goes_on else []


def _laid_out(console: Console, document: Document, width: int) -> list[Line]:
    """Its lines, without the empty one that Rich puts before what contains others."""
    return list(dropwhile(lambda line: not line, rendered(console, document, width)))


def _wrapped(console: Console, text: Text, width: int) -> list[Line]:
    shown = text.copy()
    shown.no_wrap, shown.overflow = False, "fold"
    return rendered(console, shown, width)


def _tail(console: Console, source: str, width: int, rows: int) -> list[Line]:
    """The last lines of a text, which cost no more than what of it is shown."""
    # From a place that moves only once a screen: else all lines would be broken anew with each word.
    screen = width * rows
    begins = (len(source) // screen - 1) * screen
    texts = [
        text
        for paragraph in source[begins:].split("\n")
        for text in Text(paragraph).divide(breaks(paragraph, width))
    ]
    return [line for text in texts[-rows:] for line in rendered(console, text, width)][-rows:]
