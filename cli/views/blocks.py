"""Cuts Markdown into blocks while it is being written: a block is given once nothing can change it any more.

Cuts are made only where CommonMark surely begins another block at the top level; what is not cut is left to its parser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Block:
    """Markdown of one block or a few; `continues` means that it is a further item of the list before it."""

    source: str
    continues: bool = False


@dataclass(frozen=True)
class CodeStart:
    """A fence opens; `info` is what stands behind it, mostly a language."""

    info: str


@dataclass(frozen=True)
class CodeLine:
    """One line within a fence."""

    text: str


@dataclass(frozen=True)
class CodeEnd:
    """The fence is closed."""


Piece: TypeAlias = Block | CodeStart | CodeLine | CodeEnd

_FENCE = re.compile(r" {0,3}(?P<fence>`{3,}(?=[^`]*$)|~{3,})(?P<info>.*)")
_HEADING = re.compile(r" {0,3}#{1,6}([ \t]|$)")
_RULE = re.compile(r" {0,3}([-*_])[ \t]*(\1[ \t]*){2,}$")
_ITEM = re.compile(r" {0,3}(?:(?P<bullet>[-*+])|(?P<number>\d{1,9})(?P<end>[.)]))(?P<gap>[ \t]+|$)")
_CODE_INDENT = 4


class Blocks:
    """Reads Markdown as it comes; how it is cut into pushes does not change what comes out."""

    def __init__(self) -> None:
        self._partial = ""
        self._fence = ""
        self._fence_indent = 0
        self._begin((), None, continues=False)

    def push(self, text: str) -> list[Piece]:
        """What is finished once `text` has come."""
        *lines, self._partial = (self._partial + text).split("\n") if "\n" in text else [self._partial + text]
        pieces = [piece for line in lines for piece in self._line(line)]
        if self._partial and self._partial_begins_another():
            pieces += self._cut()
        return pieces

    def end(self) -> list[Piece]:
        """What was not finished: no more comes, or something else comes between."""
        pieces = self._line(self._partial) if self._partial else []
        self._partial = ""
        pieces += self._cut()
        if self._fence:
            self._fence = ""
            pieces.append(CodeEnd())
        return pieces

    @property
    def open(self) -> Block | CodeLine | None:
        """What is being written."""
        if self._fence:
            return CodeLine(self._dedented(self._partial)) if self._partial else None
        source = "\n".join([*self._lines, self._partial])
        return Block(source, self._continues) if source.strip() else None

    def _line(self, line: str) -> list[Piece]:
        if self._fence:
            return self._code(line)
        if not line.strip(" \t"):
            self._blank = bool(self._lines)
            self._lines += [line] if self._lines else []
            return []
        if _indent(line) < self._limit:
            if opening := _FENCE.match(line):
                self._fence, self._fence_indent = opening["fence"], _indent(line)
                return [*self._cut(), CodeStart(opening["info"].strip())]
            if _HEADING.match(line) or self._is_rule(line):
                return [*self._cut(), Block(line)]
        pieces = self._cut_before(line)
        self._lines.append(line)
        self._blank = False
        return pieces

    def _code(self, line: str) -> list[Piece]:
        stripped = line.strip(" \t")
        closes = len(stripped) >= len(self._fence) and not stripped.strip(self._fence[0])
        if closes and _indent(line) < _CODE_INDENT:
            self._fence = ""
            return [CodeEnd()]
        return [CodeLine(self._dedented(line))]

    def _dedented(self, line: str) -> str:
        return line[min(self._fence_indent, _indent(line)) :]

    def _is_rule(self, line: str) -> bool:
        # Dashes under a paragraph make it a heading.
        underlines = bool(self._lines) and not self._blank and self._marker is None and "-" in line
        return _RULE.match(line) is not None and not underlines

    def _cut_before(self, line: str) -> list[Piece]:
        """Cut where the line begins another block, or the next item of a list."""
        if self._lines and not self._begins_another(line):
            return []
        item = _ITEM.match(line)
        marker = (item["bullet"] or item["end"]) if item else None
        continues = marker is not None and marker == self._marker
        pieces = self._cut()
        self._begin((), marker, continues=continues, limit=_content_indent(item) if item else _CODE_INDENT)
        return pieces

    def _begins_another(self, line: str) -> bool:
        if _indent(line) >= self._limit:
            return False
        item = _ITEM.match(line)
        if self._blank or (item and self._marker):
            return True
        if item:
            interrupts = bool(line[item.end() :].strip()) and item["number"] in (None, "1")
            # Other items do not interrupt a paragraph; but what is above may be none, and then the list has begun here.
            self._may_have_begun_list |= not interrupts
            return interrupts and not self._may_have_begun_list
        return self._marker is not None and line.lstrip(" ").startswith(">")

    def _partial_begins_another(self) -> bool:
        """Whether that is certain before the line is complete."""
        first = self._partial[0]
        may_be_item = self._marker is not None and (first in "-*+" or first.isdigit())
        return self._blank and not self._fence and first not in " \t" and not may_be_item

    def _cut(self) -> list[Piece]:
        source = "\n".join(self._lines).rstrip(" \t\n")
        pieces: list[Piece] = [Block(source, self._continues)] if self._lines else []
        self._begin((), None, continues=False)
        return pieces

    def _begin(
        self, lines: tuple[str, ...], marker: str | None, *, continues: bool, limit: int = _CODE_INDENT
    ) -> None:
        self._lines, self._marker = list(lines), marker
        self._continues, self._limit = continues, limit
        self._blank = self._may_have_begun_list = False


def _indent(line: str) -> int:
    """Spaces before the text; a tab among them counts as code's."""
    rest = line.lstrip(" ")
    return _CODE_INDENT if rest.startswith("\t") else len(line) - len(rest)


def _content_indent(item: re.Match[str]) -> int:
    """Where an item's text begins: less indented lines after a blank one do not belong to it."""
    gap = len(item["gap"])
    return min(item.start("gap") + (gap if 1 <= gap <= 4 else 1), _CODE_INDENT)
