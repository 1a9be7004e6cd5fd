"""The editor of a chat: what its keys do, and what it leaves on screen."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import PipeInput, create_pipe_input
from screens import Terminal

from cli.editor import Editor, on_screen
from cli.input_history import InputHistory

UP, LEFT, ALT_ENTER = "\x1b[A", "\x1b[D", "\x1b\r"
CTRL_C, CTRL_D, CTRL_R, CTRL_U = "\x03", "\x04", "\x12", "\x15"


def pasted(text: str) -> str:
    return f"\x1b[200~{text}\x1b[201~"


class Screen(Terminal):
    """A terminal before which somebody waits for a text to stand there, and then does the next thing."""

    def __init__(self, columns: int, lines: int) -> None:
        super().__init__(columns, lines)
        self.then: list[tuple[str, Callable[[], object]]] = []

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.then and self.then[0][0] in self.text():
            self.then.pop(0)[1]()
        return written


class Typist:
    """Types into an editor."""

    def __init__(self, keys: PipeInput, columns: int, lines: int) -> None:
        self.screen, self.keys = Screen(columns, lines), keys
        self.history = InputHistory()
        output = on_screen(self.screen, lambda: Size(lines, columns))  # pyright: ignore[reportArgumentType]
        self.editor = Editor(
            self.screen,  # pyright: ignore[reportArgumentType]
            self.history,
            "› ",
            "… ",
            keys=keys,
            output=output,
        )

    def __call__(self, keys: str, *then: tuple[str, str | Callable[[], object]]) -> str:
        """What is read when these keys are typed, and those behind each text once it is seen."""
        self.screen.then = [
            (seen, does if callable(does) else lambda does=does: self.keys.send_text(does))
            for seen, does in then
        ]
        self.keys.send_text(keys)
        return self.editor.read()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "history.jsonl"
    monkeypatch.setenv("QNEXT_HISTORY", str(path))
    return path


@pytest.fixture
def start(file: Path) -> Iterator[Callable[..., Typist]]:
    with create_pipe_input() as keys:
        yield lambda columns=40, lines=24: Typist(keys, columns, lines)


@pytest.fixture
def type(start: Callable[..., Typist]) -> Typist:
    return start()


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("one\r", "one"),
        # As it waits where it was typed while the terminal kept lines.
        ("one\n", "one"),
        ("one\\\rtwo\r", "one\ntwo"),
        (f"one{ALT_ENTER}two\r", "one\ntwo"),
        ('"""one\rtwo\\\r"""\r', '"""one\ntwo\\\n"""'),
        (pasted("one\r\n\ttwo\\\rthree\n") + "\r", "one\n\ttwo\\\nthree"),
        (f"one{pasted(' and')} two\r", "one and two"),
        (f"one{ALT_ENTER}tw{UP}!\r", "on!e\ntw"),
        (f"oe{LEFT}n\r", "one"),
        (f"one{CTRL_U}two\r", "two"),
        (f"oxe{LEFT}{LEFT}{CTRL_D}n\r", "one"),
        ("a\tb\r", "ab"),
        ("寿司 👩‍👩‍👧\r", "寿司 👩‍👩‍👧"),
    ],
)
def test_keys(keys: str, text: str, type: Typist) -> None:
    assert type(keys) == text


def test_what_is_left_on_screen_is_the_prompt_and_the_text(type: Typist) -> None:
    type("one\\\rtwo\r")
    type(f"{'long ' * 10}{pasted(chr(27))}[31m\r")
    with pytest.raises(EOFError):
        type(CTRL_D)
    assert type.screen.rows() == [
        "› one",
        "… two",
        "› long long long long long long long lon",
        "g long long ␛[31m",
        "›",
    ]


def test_a_text_longer_than_the_screen_scrolls_off_whole(start: Callable[..., Typist]) -> None:
    type = start(columns=20, lines=6)
    lines = [f"line {number}" for number in range(20)]
    type("before\r")
    assert type(pasted("\n".join(lines)) + "\r") == "\n".join(lines)
    assert type.screen.rows() == ["› before", "› line 0", *(f"… {line}" for line in lines[1:])]


def test_tab_completes_a_command_and_lists_what_it_takes(type: Typist) -> None:
    then = [("› /think", "\t"), ("collapse", "\t\t"), ("› /think collapse", "\r\r")]
    assert type("/thi\t", *then) == "/think collapse"
    assert type.screen.rows() == ["› /think collapse"]


def test_an_interrupt_drops_the_text_and_says_whether_there_was_any(type: Typist) -> None:
    with pytest.raises(KeyboardInterrupt):
        type(f"one{CTRL_C}")
    assert type.editor.has_text
    with pytest.raises(KeyboardInterrupt):
        type(CTRL_C)
    assert not type.editor.has_text
    assert type("two\r") == "two"
    assert type.screen.rows() == ["› one", "›", "› two"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_an_interrupt_and_its_handler_comes_back(number: signal.Signals, type: Typist) -> None:
    def handle(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, handle)
    try:
        with pytest.raises(KeyboardInterrupt):
            type("one", ("one", lambda: signal.raise_signal(number)))
        assert signal.getsignal(number) is handle
        assert type(f"{CTRL_U}two\r") == "two"
    finally:
        signal.signal(number, before)


def test_what_is_typed_after_enter_waits_for_the_next_text(type: Typist) -> None:
    assert [type("one\rtwo\rthr"), type(""), type("ee\r")] == ["one", "two", "three"]


class TestHistory:
    def sent(self, type: Typist, texts: Sequence[str]) -> None:
        for text in texts:
            assert type(f"{text}\r")

    def test_a_text_of_several_lines_comes_back_whole(self, type: Typist) -> None:
        self.sent(type, ["zero", "one\\\rtwo"])
        assert type("", ("› ", f"{UP}{UP}{UP}\r")) == "zero"

    def test_it_lasts_and_can_be_searched(self, start: Callable[..., Typist], file: Path) -> None:
        self.sent(start(), ["the first", "the second", "other"])
        assert start()("", ("›", f"{CTRL_R}first\r"), ("› the first", "\r")) == "the first"

    def test_what_begins_with_a_space_is_not_kept_nor_anything_twice_in_a_row(
        self, type: Typist, file: Path
    ) -> None:
        self.sent(type, ["one", "one", " secret", "two", "one"])
        assert file.read_text() == '"one"\n"two"\n"one"\n'

    def test_without_a_file_it_lasts_as_long_as_the_chat(self, type: Typist, file: Path) -> None:
        file.mkdir()
        self.sent(type, ["one"])
        assert type.history.trouble is not None
        assert type("", ("› ", f"{UP}\r")) == "one"
