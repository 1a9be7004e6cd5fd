"""Text files that a question of a chat is about."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from chats import NOTES, one_turn, text
from fakes.engine import finished
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_chat_settings import PLAIN

from cli.actions import Ask, Attach, Say
from cli.attaching import attachment, meant_file, read_text
from cli.commands import read
from cli.conversation import Conversation, block
from cli.keeping import Keeping
from cli.options import room
from cli.talk import Talk
from cli.views.thought import Thinking
from mlx_qnext import Engine
from mlx_qnext.errors import ContextLengthError, UsageError
from mlx_qnext.sessions.library import SessionLibrary


@pytest.fixture
def conversation() -> Conversation:
    """Of one turn."""
    return one_turn()


def test_the_next_question_holds_them_and_the_one_after_does_not(conversation: Conversation) -> None:
    conversation.attached = [NOTES, replace(NOTES, file=Path("/more.txt"))]
    action = read("What is it?", conversation)
    assert isinstance(action, Ask)
    content = conversation.prompt(action.question)[-1]["content"]
    files = "notes.txt:\n```\none\ntwo\n```\n\nmore.txt:\n```\none\ntwo\n```\n\n"
    assert content == f"{files}What is it?"
    conversation.answered(action.question, finished("2"))
    assert conversation.attached == []
    assert conversation.questions == ["one?", "What is it?"]


def test_they_stay_with_their_question(conversation: Conversation) -> None:
    conversation.attached = [NOTES]
    conversation.answered(conversation.question("What is it?"), finished("2"))
    before = block(NOTES.name, NOTES.text)
    for line, asked in (("/retry", "What is it?"), ("/edit 2 Who?", "Who?")):
        conversation.attached = [replace(NOTES, file=Path("/next.txt"))]
        action = read(line, conversation)
        assert isinstance(action, Ask)
        assert action.question.message["content"] == before + asked
        conversation.answered(action.question, finished("3"))
        assert [each.name for each in conversation.attached] == ["next.txt"]
    assert conversation.undo() == "Who?"


def test_a_question_that_is_forgotten_lets_go_of_none(conversation: Conversation) -> None:
    conversation.attached = [NOTES]
    conversation.answered(conversation.question("a"), finished("", reason="cancelled"))
    assert conversation.attached == [NOTES]


def test_they_are_listed_and_dropped(conversation: Conversation) -> None:
    assert read("/file", conversation) == Say(
        "Nothing is attached: /file PATH puts a text file into the next question."
    )
    conversation.attached = [replace(NOTES, tokens=1234)]
    action = read("/file", conversation)
    assert isinstance(action, Say)
    assert text(action.shown) == "attached: notes.txt (1,234 tokens)\n"
    read("/file --none", conversation)
    assert conversation.attached == []
    assert read("/file my notes.txt", conversation) == Attach("my notes.txt")


@given(st.text(alphabet="`~a\n", max_size=20))
def test_no_fence_in_a_file_ends_its_block(content: str) -> None:
    lines = block("x", content).split("\n")
    fence = lines[1]
    assert set(fence) == {"`"}
    assert fence not in "\n".join(lines[2:-3])
    assert lines[-3:] == [fence, "", ""]


@pytest.mark.parametrize("written", ["my notes.txt", "my\\ notes.txt", "'my notes.txt'", '"my notes.txt"'])
def test_a_path_may_be_quoted(written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my notes.txt").write_bytes(b"\xef\xbb\xbfone")
    assert attachment(meant_file(written), len, 100).text == "one"


def test_a_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.txt").write_text("one")
    assert attachment(meant_file("~/x.txt"), len, 100).name == "x.txt"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"caf\xe9", r"x is not UTF-8 text \(byte 3\)"),
        ("ab".encode("utf-16"), "x is UTF-16"),
        (b"ab\0c", r"x is not text \(byte 2 is zero\)"),
        (b" \n", "x is empty"),
    ],
)
def test_what_is_no_text_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UsageError, match=said):
        attachment(tmp_path / "x", len, 100)


def test_what_might_never_end_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UsageError, match="is a pipe or a device"):
            attachment(path, len, 100)


@pytest.mark.parametrize("path", ["", "nowhere", "x" * 300])
def test_what_cannot_be_read_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        attachment(tmp_path / path, len, 100)


def test_what_does_not_fit_is_refused_by_its_tokens_or_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("a" * 30)
    size = len(block("x", "a" * 30))
    assert attachment(file, len, size).tokens == size
    with pytest.raises(ContextLengthError, match=f"x has {size} tokens .* room for {size - 1}"):
        attachment(file, len, size - 1)
    with pytest.raises(ContextLengthError, match="more than what is left"):
        read_text(file, most_bytes=29)


def test_a_file_is_measured_against_what_the_conversation_leaves(engine: Engine, tmp_path: Path) -> None:
    small = replace(engine, plan=replace(engine.plan, context_tokens=200))
    keeping = Keeping(SessionLibrary(tmp_path), small, "demo", PLAIN.facts(), automatic=False)
    stop = replace(PLAIN, when_full="stop")
    talk = Talk(
        Conversation(None, Thinking.hide), stop, room("auto", "auto", 16), keeping, Console(stderr=True)
    )
    talk.conversation.answered(talk.conversation.question("one " * 60), finished("1."))
    (tmp_path / "x.txt").write_text("one " * 100)
    with pytest.raises(ContextLengthError, match=r"x\.txt has"):
        talk.turn(f"/file {tmp_path / 'x.txt'}")
    # Where the oldest turns may go, they leave more.
    talk.settings = PLAIN
    talk.turn(f"/file {tmp_path / 'x.txt'}")
    (file,) = talk.conversation.attached
    assert file.tokens == len(engine.tokenizer.encode(block(file.name, file.text)))
    (tmp_path / "y.txt").write_text("one " * 100)
    with pytest.raises(ContextLengthError):
        talk.turn(f"/file {tmp_path / 'y.txt'}")
    # The same file needs no room twice.
    talk.turn(f"/file {tmp_path / 'x.txt'}")
    assert talk.conversation.attached == [file]


def test_a_file_is_attached_once_and_as_it_is_now(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keeping = Keeping(SessionLibrary(tmp_path), engine, "demo", PLAIN.facts(), automatic=False)
    err = Console(file=StringIO(), width=80)
    talk = Talk(Conversation(None, Thinking.hide), PLAIN, room("auto", "auto", 16), keeping, err)
    for name in ("x.txt", "y.txt"):
        Path(name).write_text(f"one of {name}")
        talk.turn(f"/file {name}")
    talk.turn(f"/file {tmp_path}/x.txt")
    Path("x.txt").write_text("two")
    talk.turn("/file 'x.txt'")
    said = err.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    assert said[2] == "x.txt is attached already."
    assert re.fullmatch(r"attached: x\.txt \(\d+ tokens\), in place of what it was", said[3])
    assert [(each.name, each.text) for each in talk.conversation.attached] == [
        ("x.txt", "two"),
        ("y.txt", "one of y.txt"),
    ]
