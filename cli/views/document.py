"""Markdown as an answer shows it: Rich's, with code in the terminal's own colours and with nothing left out."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import (
    CodeBlock,
    Heading,
    HorizontalRule,
    ListElement,
    ListItem,
    Markdown,
    MarkdownElement,
    Paragraph,
    TableElement,
)
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cli.views.highlight import Highlighter

_CODE_EDGE = "──"


class Document(Markdown):
    """Some blocks of Markdown. The model's line breaks stay, and so does what looks like HTML; links show their address.

    Args:
        source: Markdown without control characters.
        start: the number of the first item, where the source begins with one of a numbered list.
    """

    elements: ClassVar[dict[str, type[MarkdownElement]]]

    def __init__(self, source: str, start: int | None = None) -> None:
        # Not Rich's own: it makes a new parser for each.
        self.markup = source
        self.parsed = _parser().parse(source)
        self.code_theme = self.inline_code_theme = "ansi_dark"
        self.inline_code_lexer = None
        self.justify = "default"
        self.style = "none"
        self.hyperlinks = False
        for token in self.parsed:
            _keep_all(token.children or ())
        if start is not None and self.parsed and self.parsed[0].type == "ordered_list_open":
            self.parsed[0].attrs["start"] = start

    @property
    def next_number(self) -> int | None:
        """The number of an item that would follow, where the source begins with a numbered list."""
        if not self.parsed or self.parsed[0].type != "ordered_list_open":
            return None
        items = sum(token.type == "list_item_open" and token.level == 1 for token in self.parsed)
        return int(self.parsed[0].attrs.get("start", 1)) + items


def code_start(info: str) -> Text:
    """The line above code, with what stands behind its fence."""
    return Text(f"{_CODE_EDGE} {info}".rstrip(), style="dim")


def code_end() -> Text:
    """The line below code."""
    return Text(_CODE_EDGE, style="dim")


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])


def _keep_all(tokens: Iterable[Token]) -> None:
    """Line breaks are lines' ends, and an image is the text that stands for it and its address, where it is mentioned."""
    for token in tokens:
        if token.type == "softbreak":
            token.type = "hardbreak"
        elif token.type == "image":
            token.type, token.tag, token.children = "text", "", None
            token.content = f"{token.content} ({token.attrs.get('src', '')})"


class _Heading(Heading):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "default"
        yield self.text


class _Rule(HorizontalRule):
    new_line = True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Rule(style=console.get_style("markdown.hr", default="none"))


class _Code(CodeBlock):
    @classmethod
    def create(cls, markdown: Markdown, token: Token) -> _Code:
        return cls(token.info.strip(), markdown.code_theme)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        highlighter = Highlighter(self.lexer_name)
        yield code_start(self.lexer_name)
        for line in self.text.plain.removesuffix("\n").split("\n"):
            text = highlighter.line(line)
            text.no_wrap, text.overflow = False, "fold"
            yield text
        yield code_end()


class _Table(TableElement):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            style="markdown.table.border",
            collapse_padding=True,
        )
        head = self.header.row.cells if self.header and self.header.row else []
        for cell in head:
            heading = cell.content.copy()
            heading.stylize("markdown.table.header")
            table.add_column(heading, overflow="fold")
        for row in self.body.rows if self.body else ():
            table.add_row(*(cell.content for cell in row.cells))
        yield table


class _Item(ListItem):
    def render_number(
        self,
        console: Console,
        options: ConsoleOptions,
        number: int,
        last_number: int,  # noqa: ARG002
    ) -> RenderResult:
        # How many will follow is not known yet: there is room for two digits.
        return super().render_number(console, options, number, max(number, 10))


Document.elements = Markdown.elements | {
    "paragraph_open": Paragraph,
    "heading_open": _Heading,
    "hr": _Rule,
    "fence": _Code,
    "code_block": _Code,
    "bullet_list_open": ListElement,
    "list_item_open": _Item,
    "table_open": _Table,
}
