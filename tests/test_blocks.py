"""Text that comes in pieces is cut into lines and blocks that do not depend on the pieces."""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from screens import cut, plain

from cli.views.blocks import Block, Blocks, CodeEnd, CodeLine, CodeStart, Piece
from cli.views.flow import Flow


@given(
    st.text("ab \t寿é\u0301🍣\n", max_size=120),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(2, 30),
)
@settings(max_examples=40, deadline=None)
def test_lines_of_flowing_text_do_not_depend_on_how_it_came(text: str, sizes: list[int], width: int) -> None:
    console = Console(file=StringIO(), width=width, color_system=None)

    def flowed(pieces: Iterable[str]) -> list[str]:
        flow, lines = Flow(), []
        for piece in pieces:
            flow.add(piece)
            lines += flow.finished(console, width)
        flow.end()
        return plain(lines + flow.finished(console, width))

    lines = flowed(cut(text, sizes))
    assert lines == flowed([text])
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(cell_len(line) <= width for line in lines)


def pieces(text: str) -> list[Piece]:
    blocks = Blocks()
    return blocks.push(text) + blocks.end()


def test_blocks_are_given_as_soon_as_nothing_can_change_them() -> None:
    blocks = Blocks()
    assert blocks.push("one\nstill one\n\n") == []
    assert blocks.push("n") == [Block("one\nstill one")]
    assert blocks.push("ext\n# heading\n") == [Block("next"), Block("# heading")]
    assert blocks.push("- a\n  more\n- b\n") == [Block("- a\n  more")]
    assert blocks.push("\n2. no") == []
    assert blocks.push("w another list\n") == [Block("- b", continues=True)]
    assert blocks.push("``") == []
    assert blocks.push("`py\n\nx\n") == [
        Block("2. now another list"),
        CodeStart("py"),
        CodeLine(""),
        CodeLine("x"),
    ]
    assert blocks.push("``` \n") == [CodeEnd()]
    assert blocks.end() == []


@pytest.mark.parametrize(
    "text",
    [
        "a\n2. not an item",
        "a\n---",
        "- a\nlazy",
        "- a\n\n  b",
        "> a\nlazy",
        "a\n    b",
        "| a |\n|---|\n| b |",
    ],
)
def test_what_belongs_together_is_not_cut(text: str) -> None:
    assert pieces(text) == [Block(text)]


def test_a_fence_ends_with_its_own_kind_only() -> None:
    assert pieces("````md\n```\n~~~~\n````\nb") == [
        CodeStart("md"),
        CodeLine("```"),
        CodeLine("~~~~"),
        CodeEnd(),
        Block("b"),
    ]
    assert pieces(" ```\n  a\n b\n") == [CodeStart(""), CodeLine(" a"), CodeLine("b"), CodeEnd()]
