"""An answer that streams into a terminal: all of it is there in order, however it comes and however long it is."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from threading import Event

import pytest
from fakes.engine import answer, thinking
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from screens import Terminal, cut, plain

from cli.views.answer import AnswerView
from cli.views.live import LiveRegion, breaks_lines_anew, rendered
from cli.views.markdown import MarkdownStream
from cli.views.painter import Pulse
from cli.views.thought import Thinking
from mlx_qnext.generate.events import TokensEmitted
from mlx_qnext.transcript import Segment

WIDTHS = [40, 80, 200]
LINES = [
    "",
    "",
    "plain words that go on for a while, so that they are wrapped where the screen is narrow",
    "# heading",
    "two `ticks` and **bold** and *emphasis* and [a link](https://example.com/a)",
    "- item",
    "* other item",
    "  - nested item",
    "  continued",
    "1. first",
    "7) seventh",
    "2. second with 寿司を三貫とお茶を二杯 and 🍣👩‍👩‍👧",
    "```python",
    "```",
    "~~~",
    "    indented = 1",
    "\ttabs\tinside",
    'x = """open /* comment',
    "> quoted",
    "| a | b |",
    "|---|--:|",
    "---",
    "===",
    "שלום עולם и приветe\u0301",
    "<b>not HTML</b> &amp; &#27;[2J &#13;",
    "\\* escaped \\(x\\) _under_score",
    "![image](x.png)",
    "[bracket] :smile: [bold]x[/bold]",
    ">>>>>>>>>>>>>>>>>> deep",
]


def documents() -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(LINES), max_size=14).map("\n".join)


def groups(text: str, sizes: Sequence[int] = (7, 3, 11)) -> list[TokensEmitted]:
    return [answer(piece, len(piece) % 3 + 1) for piece in cut(text, sizes) if piece]


def streamed(events: Iterable[TokensEmitted], terminal: Terminal, *, every_s: float = 0.2) -> Iterator[int]:
    """Shows them in a terminal, and pauses after each, so that it can be looked at."""
    screen, now = terminal.console(), 0.0
    view = AnswerView(screen, screen, Thinking.show, clock=lambda: now, beats=False)
    for number, event in enumerate(events):
        now += every_s
        view.update(event)
        yield number
        # Whoever looked may have resized it.
        screen.size = terminal.size  # pyright: ignore[reportAttributeAccessIssue]
    view.finish()


def at_once(text: str, width: int) -> str:
    """The rows of a document that came in one piece, where no terminal breaks them."""
    file = StringIO()
    console = Console(file=file, width=width, color_system=None, markup=False, highlight=False, emoji=False)
    for line in lines_of([text], console, width):
        console.print("".join(segment.text for segment in line), soft_wrap=True)
    return file.getvalue()


def lines_of(pieces: Iterable[str], console: Console, width: int) -> list:
    stream = MarkdownStream()
    lines = []
    for piece in pieces:
        stream.add(piece)
        lines += stream.finished(console, width)
        stream.unfinished(console, width, 10)
    stream.end()
    return lines + stream.finished(console, width)


@pytest.mark.parametrize("width", WIDTHS)
@given(documents(), st.lists(st.integers(1, 30), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_how_an_answer_is_cut_does_not_change_what_is_printed(
    width: int, text: str, sizes: list[int]
) -> None:
    console = Console(file=StringIO(), width=width, color_system=None)
    cut_up = lines_of(cut(text, sizes), console, width)
    whole = lines_of([text], console, width)
    assert cut_up == whole


@given(documents(), st.lists(st.integers(1, 30), min_size=1, max_size=4), st.sampled_from(WIDTHS))
@settings(max_examples=25, deadline=None)
def test_the_screen_and_what_scrolled_off_it_hold_the_whole_answer(
    text: str, sizes: list[int], width: int
) -> None:
    terminal = Terminal(width, lines=6)
    for _ in streamed(groups(text, sizes), terminal):
        pass
    assert squeezed(terminal.text()) == squeezed(at_once(text, width))
    assert terminal.column == 0
    # Nothing but what paints a region moves a cursor; an entity of the model's text does not become an escape.
    assert set(re.findall(r"\x1b\[[\d;?]*([A-Za-z])", terminal.written)) <= set("mAJKhl")
    controls = {c for c in terminal.written if unicodedata.category(c) == "Cc"}
    assert controls <= {"\x1b", "\n", "\r"}


def squeezed(text: str) -> str:
    """Without what an emulator and a font may treat in different ways: spaces, line ends, joined characters."""
    return unicodedata.normalize("NFC", re.sub(r"[\s\u200d]", "", text))


LONG = "\n\n".join(
    [
        "# A long answer",
        " ".join(f"word{n}" for n in range(120)),
        "\n".join(f"{n}. item {n} of a list\n   - nested {n}" for n in range(1, 25)),
        "```python\n" + "\n".join(f"value_{n} = {n}  # {'x' * n}" for n in range(50)) + "\n```",
        "\n".join(["| n | square |", "|--:|---|", *(f"| {n} | {n * n} |" for n in range(40))]),
        "The end.",
    ]
)


@pytest.mark.parametrize("width", WIDTHS)
def test_an_answer_longer_than_the_screen_is_whole_above_it(width: int) -> None:
    terminal, expected = Terminal(width, lines=12), Terminal(width, lines=12)
    expected.write(at_once(LONG, width))
    for _ in streamed(groups(LONG, (53, 29)), terminal):
        pass
    assert terminal.rows() == expected.rows()
    ups = [int(count) for count in re.findall(r"\x1b\[(\d+)A", terminal.written)]
    assert max(ups) < 12
    # What is painted again stays small: most of it was written once.
    assert len(terminal.written) < 25 * len(LONG) * width / 80 + 20_000


def test_a_terminal_that_becomes_wider_and_higher_keeps_every_word() -> None:
    words = " ".join(f"word{n}" for n in range(300))
    text = f"{words[:900]}\n\n- {words[900:]}\n"
    terminal = Terminal(40, lines=8)
    for number in streamed(groups(text, (31, 17)), terminal):
        if number in (16, 50, 80):
            terminal.resize(terminal.size[0] + 13, terminal.size[1] + 5)
    assert re.findall(r"\d+", terminal.text().replace("\n", "")) == list(map(str, range(300)))


@pytest.mark.parametrize(("reflows", "up"), [(True, 5), (False, 1)])
def test_a_region_in_a_terminal_that_became_narrower_is_as_high_as_that_terminal_made_it(
    reflows: bool, up: int
) -> None:
    terminal = Terminal(80)
    console = terminal.console()
    region = LiveRegion(console, reflows=reflows)
    lines = rendered(console, "a" * 80 + "\n" + "b" * 70, 80)
    region.paint((), lines)
    console.size = (33, 24)  # pyright: ignore[reportAttributeAccessIssue]
    terminal.written = ""
    region.close()
    assert f"\r\x1b[{up}A" in terminal.written


@pytest.mark.parametrize(
    ("line", "is_cut_off"),
    [("plain words", False), ("寿司 · שלום • é", False), ("🍣", True), ("e\u0301", True)],
)
def test_only_a_line_whose_width_is_uncertain_is_cut_off_where_the_terminal_breaks_lines_anew(
    line: str, is_cut_off: bool
) -> None:
    terminal = Terminal(80)
    console = terminal.console()
    LiveRegion(console, reflows=True).paint((), rendered(console, line, 80))
    assert ("\x1b[?7l" in terminal.written) is is_cut_off
    terminal.written = ""
    LiveRegion(console, reflows=False).paint((), rendered(console, line, 80))
    assert "\x1b[?7l" in terminal.written


def test_nothing_is_painted_until_a_terminal_that_is_resized_has_kept_its_size_for_a_while() -> None:
    terminal, now = Terminal(80), 0.0
    screen = terminal.console()
    view = AnswerView(screen, screen, Thinking.show, clock=lambda: now, beats=False)
    view.update(answer("one"))
    terminal.written = ""
    for columns in (60, 40, 60):
        terminal.resize(columns, 24, screen)
        now += 0.2
        view.update(answer(" two"))
        assert terminal.written == ""
    now += 0.4
    view.update(answer(" three"))
    assert "one two two two three" in terminal.written
    view.finish()


@pytest.mark.parametrize(
    ("environment", "reflows"),
    [
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, True),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/x"}, True),
        ({"TERM": "screen", "STY": "1.x", "TERM_PROGRAM": "Apple_Terminal"}, False),
        ({"TERM": "xterm"}, False),
    ],
)
def test_which_terminals_break_lines_anew(environment: dict[str, str], reflows: bool) -> None:
    assert breaks_lines_anew(environment) is reflows


@pytest.mark.parametrize(
    "text",
    [
        "a paragraph that is",
        "```python\ndef f():\n    retu",
        "1. one\n2. tw",
        "| a | b |\n|---|---|\n| 1 | 2",
    ],
)
def test_an_answer_that_is_interrupted_stays_and_nothing_live_does(text: str) -> None:
    terminal = Terminal(80)
    for _ in streamed(groups(text), terminal):
        assert "tokens" in terminal.text()
    assert "tokens" not in terminal.text()
    assert squeezed(terminal.text()) == squeezed(at_once(text, 80))
    assert terminal.column == 0


def test_an_interrupted_thought_leaves_its_line() -> None:
    terminal = Terminal(80)
    for _ in streamed([thinking("so far", 3)], terminal):
        pass
    assert terminal.rows() == ["thinking", "so far", "thought for 0 s · 3 tokens"]


def test_a_dumb_terminal_gets_text_as_it_comes_and_no_cursor_movement() -> None:
    terminal = Terminal(80)
    screen = terminal.console(_environ={"TERM": "dumb"}, color_system=None)
    for mode in Thinking:
        view = AnswerView(screen, screen, mode)
        for event in [thinking("7 + 5", 3), *groups("**It** is\n\n- 132\x1b[2J")]:
            view.update(event)
        view.finish()
    assert "**It** is\n\n- 132␛[2J\n" in terminal.written
    assert "\x1b" not in terminal.written


def test_without_colours_the_layout_is_the_same() -> None:
    seen = {}
    for color in (True, False):
        terminal = Terminal(80)
        screen = terminal.console(color=color)
        view = AnswerView(screen, screen, Thinking.collapse, clock=lambda: 0.0, beats=False)
        for event in [thinking("7 + 5", 3), *groups(LONG, (60,))]:
            view.update(event)
        view.finish()
        seen[color] = terminal
    assert seen[True].rows() == seen[False].rows()
    codes = re.findall(r"\x1b\[([\d;]*)m", seen[False].written)
    assert not {code for group in codes for code in group.split(";")} & {
        str(n) for n in [*range(30, 50), *range(90, 108)]
    }


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (
            '{"name": "weather", "arguments": {"city": "Zürich", "days": 3}}',
            '→ weather(city="Zürich", days=3)',
        ),
        (
            "<function=weather>\n<parameter=city>\nZürich\n</parameter>\n</function>",
            '→ weather(city="Zürich")',
        ),
        ('{"name": "run", "arguments": {"code": "' + "x" * 500 + '"}}', '→ run(code="' + "x" * 58 + "…)"),
        ('{"name": "a\\u001b[2J"}', "→ a␛[2J()"),
        ('{"name": "weather", "argu', "→ a tool call that cannot be read"),
        ("[" * 5000, "→ a tool call that cannot be read"),
    ],
)
def test_a_tool_call_is_one_line_and_never_raw(body: str, line: str) -> None:
    terminal = Terminal(80)
    call = TokensEmitted((1, 2), (Segment("tool_call", body),))
    for _ in streamed([answer("Let me look."), call, answer("It rains.")], terminal):
        pass
    assert terminal.rows() == ["Let me look.", "", line, "", "It rains."]
    out, err = (
        Console(file=StringIO(), width=80, soft_wrap=True, markup=False, highlight=False) for _ in range(2)
    )
    view = AnswerView(out, err, Thinking.show)
    view.update(call)
    view.finish()
    assert (out.file.getvalue(), err.file.getvalue()) == ("", f"{line}\n")  # pyright: ignore[reportAttributeAccessIssue]


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


@pytest.mark.parametrize("sizes", [(1,), (7, 3, 11), (1000,)])
@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (f"Let me see.\n{CALL}\nIt is 2.", ["Let me see.", "", "→ add(a=1)", "", "It is 2."]),
        (CALL[:40], ["→ a tool call that cannot be read"]),
        ("<tool_call> and </tool_call> enclose one.", ["<tool_call> and </tool_call> enclose one."]),
        (f"As in {CALL[:20]}", ["As in <tool_call>", '{"name":']),
        (f"```\n{CALL}\n```", ["──", *CALL.split("\n"), "──"]),
        ("<tool", ["<tool"]),
    ],
)
def test_a_call_that_no_tools_were_offered_for_is_one_line_unless_it_is_quoted(
    text: str, rows: list[str], sizes: tuple[int, ...]
) -> None:
    terminal = Terminal(80)
    for _ in streamed(groups(text, sizes), terminal):
        pass
    assert [row.strip() for row in terminal.rows()] == rows


@pytest.mark.parametrize(("color", "shades"), [(True, ["30;46", "30;42"]), (False, ["4", "7"])])
def test_tokens_that_one_step_gave_are_shaded_together(color: bool, shades: list[str]) -> None:
    terminal = Terminal(80)
    screen = terminal.console(color=color)
    view = AnswerView(screen, screen, Thinking.show, clock=lambda: 0.0, show_steps=True, beats=False)
    for event in [answer("one"), answer(" two three", 2), answer(" four"), answer(" **five six", 3)]:
        view.update(event)
    view.finish()
    assert terminal.rows() == ["one two three four **five six"]
    last = terminal.written[terminal.written.rindex("one") :]
    assert re.findall(r"\x1b\[([\d;]*[1-9])m([^\x1b]+)", last) == [
        (shades[0], " two three"),
        (shades[1], " **five six"),
    ]


def test_a_notice_is_printed_above_what_is_unfinished() -> None:
    terminal = Terminal(80)
    screen = terminal.console()
    view = AnswerView(screen, screen, Thinking.show, clock=lambda: 0.0, beats=False)
    view.notice("Before.")
    view.update(answer("First.\n\nSecond goes"))
    view.notice("In between.")
    view.update(answer(" on."))
    view.finish()
    assert terminal.rows() == ["Before.", "First.", "In between.", "", "Second goes on."]


class Awaited(Terminal):
    """Tells when it has been sent some text."""

    def __init__(self, text: str) -> None:
        super().__init__(80)
        self._text, self.seen = text, Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if self._text in text:
            self.seen.set()
        return written


def test_a_pause_leaves_nothing_unseen() -> None:
    terminal = Awaited("the last words")
    screen = terminal.console()
    view = AnswerView(screen, screen, Thinking.show)
    for piece in ("It is", " 132,", " and", " these are", " the last words"):
        view.update(answer(piece))
    assert terminal.seen.wait(10)
    view.finish()
    assert terminal.rows() == ["It is 132, and these are the last words"]


def test_a_pulse_that_is_stopped_does_not_beat_any_more() -> None:
    came = Event()
    pulse = Pulse(came.set, 0.001)
    assert came.wait(10)
    pulse.stop()
    assert not pulse.is_alive


def test_nothing_of_the_models_text_is_left_out() -> None:
    text = "<b>x</b> &amp; ![a picture](p.png)\nnext line <https://example.com/a>\n- [here](https://example.com/b)"
    console = Console(file=StringIO(), width=80, color_system=None)
    assert plain(lines_of([text], console, 80)) == [
        "<b>x</b> & a picture (p.png)",
        "next line https://example.com/a (https://example.com/a)",
        "",
        " • here (https://example.com/b)",
    ]
