"""What commands of a chat do beyond its messages: settings, files, figures and exports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.engine import STATS, ScriptedSession, finished
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_chat_settings import PLAIN

from cli.actions import Ask, Attach, Change, Export, Say, ShowFigures
from cli.adjusting import NAMES, changed, shown
from cli.attaching import attachment, read_text
from cli.commands import COMMANDS, read
from cli.conversation import ASKED_FROM, Attachment, Conversation, Message, block
from cli.exporting import export
from cli.keeping import Keeping
from cli.options import room
from cli.talk import Talk
from cli.totals import Totals
from cli.views.figures import figures
from cli.views.stats import stats_line
from cli.views.status import Setting
from cli.views.thought import Thinking
from mlx_qnext import Engine
from mlx_qnext.errors import (
    ContextLengthError,
    OutputError,
    UsageError,
)
from mlx_qnext.generate.events import ExpertStats, MemoryStats, MtpStats
from mlx_qnext.generation_defaults import GenerationDefaults
from mlx_qnext.sessions.library import SessionLibrary

DEFAULTS = GenerationDefaults(temperature=0.6, top_k=20, top_p=0.95)
NOTES = Attachment("notes.txt", "one\ntwo\n", 12)


@pytest.fixture
def conversation() -> Conversation:
    """Of one turn."""
    conversation = Conversation("Be brief.", Thinking.collapse)
    conversation.answered(conversation.question("one?"), finished("1.", "hm\n\nwell"))
    return conversation


def text(renderable: object, width: int = 100) -> str:
    console = Console(width=width, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


class TestHelp:
    def test_each_command_says_more_of_itself(self, conversation: Conversation) -> None:
        for name, command in COMMANDS.items():
            for written in (name, name.removeprefix("/")):
                action = read(f"/help {written}", conversation)
                assert isinstance(action, Say)
                assert text(action.shown, 1000).startswith(f"{command.usage}: {command.meaning}.\n")
            assert command.more.endswith(".")
            assert (command.takes == "nothing") == (command.argument == "")

    def test_of_an_unknown_one_it_says_the_nearest(self, conversation: Conversation) -> None:
        assert read("/help exprt", conversation) == Say("There is no command /exprt: did you mean /export?")


class TestSettings:
    def rows(self, settings: Any = PLAIN, name: str | None = None) -> dict[str, tuple[str, str]]:
        return {each.name: (each.value, each.origin) for each in shown(settings, DEFAULTS, name)}

    def test_they_are_shown_with_where_they_come_from(self) -> None:
        rows = self.rows(replace(PLAIN, temp=0.0, no_think=True, think_budget=0))
        assert tuple(rows) == NAMES
        assert rows["temp"] == ("0", "set")
        assert rows["top-p"] == ("0.95", "the model's own")
        assert rows["think"] == ("off", "set")
        assert rows["think-budget"] == ("0", "set")
        assert rows["seed"][1] == rows["draft"][1] == rows["max-tokens"][1] == "default"

    @pytest.mark.parametrize(
        ("name", "value", "field", "expected"),
        [
            ("temp", "0.3", "temp", 0.3),
            ("top-k", "7", "top_k", 7),
            ("seed", "11", "seed", 11),
            ("draft", "2", "draft", "2"),
            ("think", "off", "no_think", True),
            ("think-budget", "100", "think_budget", 100),
            ("--max-tokens", "5", "max_tokens", 5),
        ],
    )
    def test_one_is_changed_and_taken_back(self, name: str, value: str, field: str, expected: object) -> None:
        settings = changed(PLAIN, name, value)
        assert settings == replace(PLAIN, **{field: expected})
        assert changed(settings, name, "default") == PLAIN

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("temp", "hot", "temp is 'hot', expected a number"),
            ("temp", "-1", "temperature is -1"),
            ("top-k", "1.5", "expected a whole number"),
            ("top-p", "nan", "top-p is nan"),
            ("draft", "9", "--draft is '9'"),
            ("think", "maybe", "expected on or off"),
            ("think-budget", "-1", "thinking budget is -1"),
            ("tmp", "1", "no setting tmp: did you mean temp"),
            ("xyzzy", "1", "expected one of temp"),
        ],
    )
    def test_what_cannot_be_meant_is_refused_as_an_option_is(self, name: str, value: str, said: str) -> None:
        with pytest.raises(UsageError, match=said):
            changed(PLAIN, name, value)

    @given(st.sampled_from(NAMES), st.text(max_size=8))
    def test_any_other_word_changes_it_soundly_or_is_refused(self, name: str, value: str) -> None:
        try:
            settings = changed(PLAIN, name, value)
        except UsageError:
            return
        settings.request()
        list(shown(settings, DEFAULTS))

    def test_a_line_is_read_as_name_and_value(self, conversation: Conversation) -> None:
        assert read("/set", conversation) == Change(None, None)
        assert read("/set temp", conversation) == Change("temp", None)
        assert read("/set  temp  0.5", conversation) == Change("temp", "0.5")


class TestFiles:
    def test_the_next_question_holds_them_and_the_one_after_does_not(
        self, conversation: Conversation
    ) -> None:
        conversation.attached = [NOTES, replace(NOTES, name="more.txt")]
        action = read("What is it?", conversation)
        assert isinstance(action, Ask)
        content = conversation.prompt(action.question)[-1]["content"]
        files = "notes.txt:\n```\none\ntwo\n```\n\nmore.txt:\n```\none\ntwo\n```\n\n"
        assert content == f"{files}What is it?"
        conversation.answered(action.question, finished("2"))
        assert conversation.attached == []
        assert conversation.questions == ["one?", "What is it?"]

    def test_they_stay_with_their_question(self, conversation: Conversation) -> None:
        conversation.attached = [NOTES]
        conversation.answered(conversation.question("What is it?"), finished("2"))
        before = block(NOTES.name, NOTES.text)
        for line, asked in (("/retry", "What is it?"), ("/edit 2 Who?", "Who?")):
            conversation.attached = [replace(NOTES, name="next.txt")]
            action = read(line, conversation)
            assert isinstance(action, Ask)
            assert action.question.message["content"] == before + asked
            conversation.answered(action.question, finished("3"))
            assert [each.name for each in conversation.attached] == ["next.txt"]
        assert conversation.undo() == "Who?"

    def test_a_question_that_is_forgotten_lets_go_of_none(self, conversation: Conversation) -> None:
        conversation.attached = [NOTES]
        conversation.answered(conversation.question("a"), finished("", reason="cancelled"))
        assert conversation.attached == [NOTES]

    def test_they_are_listed_and_dropped(self, conversation: Conversation) -> None:
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
    def test_no_fence_in_a_file_ends_its_block(self, content: str) -> None:
        lines = block("x", content).split("\n")
        fence = lines[1]
        assert set(fence) == {"`"}
        assert fence not in "\n".join(lines[2:-3])
        assert lines[-3:] == [fence, "", ""]

    @pytest.mark.parametrize(
        "written", ["my notes.txt", "my\\ notes.txt", "'my notes.txt'", '"my notes.txt"']
    )
    def test_a_path_may_be_quoted(
        self, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("my notes.txt").write_bytes(b"\xef\xbb\xbfone")
        assert attachment(written, len, 100).text == "one"

    def test_a_home_is_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "x.txt").write_text("one")
        assert attachment("~/x.txt", len, 100).name == "x.txt"

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"caf\xe9", r"x is not UTF-8 text \(byte 3\)"),
            (b"ab\0c", r"x is not text \(byte 2 is zero\)"),
            (b" \n", "x is empty"),
        ],
    )
    def test_what_is_no_text_is_refused(self, content: bytes, said: str, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(UsageError, match=said):
            attachment(str(tmp_path / "x"), len, 100)

    @pytest.mark.parametrize("path", ["", "nowhere"])
    def test_what_cannot_be_read_is_refused(self, path: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="cannot be read"):
            attachment(str(tmp_path / path), len, 100)

    def test_what_does_not_fit_is_refused_by_its_tokens_or_before_it_is_read(self, tmp_path: Path) -> None:
        file = tmp_path / "x"
        file.write_text("a" * 30)
        size = len(block("x", "a" * 30))
        assert attachment(str(file), len, size).tokens == size
        with pytest.raises(ContextLengthError, match=f"x has {size} tokens .* room for {size - 1}"):
            attachment(str(file), len, size - 1)
        with pytest.raises(ContextLengthError, match="more than what is left"):
            read_text(file, most_bytes=29)


class TestExports:
    @pytest.fixture
    def messages(self, conversation: Conversation) -> list[Message]:
        conversation.attached = [NOTES]
        conversation.answered(conversation.question("What is it?"), finished("2"))
        return conversation.messages

    def test_markdown_reads_well(self, messages: list[Message], tmp_path: Path) -> None:
        file = export(str(tmp_path / "x.md"), "demo", messages, thinking=True, overwrite=False)
        assert file.read_text() == (
            "# A conversation with demo\n\n## System message\n\nBe brief.\n\n## Question\n\none?\n\n## Answer\n\n"
            "> hm\n>\n> well\n\n1.\n\n## Question\n\nnotes.txt:\n```\none\ntwo\n```\n\nWhat is it?\n\n## Answer\n\n2\n"
        )

    def test_json_has_messages_that_can_be_asked_again(self, messages: list[Message], tmp_path: Path) -> None:
        file = export(str(tmp_path / "x.JSON"), "demo", messages, thinking=True, overwrite=False)
        told = json.loads(file.read_text())
        assert told["model"] == "demo"
        plain = [{k: v for k, v in each.items() if k != ASKED_FROM and v != ""} for each in messages]
        assert told["messages"] == plain

    @pytest.mark.parametrize("name", ["x.md", "x.json"])
    def test_thoughts_are_written_only_if_asked_for(
        self, name: str, messages: list[Message], tmp_path: Path
    ) -> None:
        file = export(str(tmp_path / name), "demo", messages, thinking=False, overwrite=False)
        assert "hm" not in file.read_text()
        assert "reasoning_content" not in file.read_text()

    def test_a_file_is_replaced_only_if_asked_for(self, messages: list[Message], tmp_path: Path) -> None:
        (tmp_path / "x.md").write_text("mine")
        with pytest.raises(OutputError, match="is there already"):
            export(str(tmp_path / "x.md"), "demo", messages, thinking=False, overwrite=False)
        assert (tmp_path / "x.md").read_text() == "mine"
        export(str(tmp_path / "x.md"), "demo", messages, thinking=False, overwrite=True)
        assert [each.name for each in tmp_path.iterdir()] == ["x.md"]

    def test_what_cannot_be_written_is_said(self, messages: list[Message], tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"neither \.md nor \.json"):
            export(str(tmp_path / "x.txt"), "demo", messages, thinking=False, overwrite=False)
        with pytest.raises(OutputError):
            export(str(tmp_path / "no" / "x.md"), "demo", messages, thinking=False, overwrite=False)

    @pytest.mark.parametrize(
        ("line", "action"),
        [
            ("/export x.md", Export("x.md", False, False)),
            ("/export my chat.md --thinking", Export("my chat.md", True, False)),
            ("/export x.md --overwrite --thinking", Export("x.md", True, True)),
        ],
    )
    def test_a_line_is_a_path_and_flags(self, line: str, action: Export, conversation: Conversation) -> None:
        assert read(line, conversation) == action

    @pytest.mark.parametrize("line", ["/export", "/export --thinking"])
    def test_a_path_has_to_be_named(self, line: str, conversation: Conversation) -> None:
        action = read(line, conversation)
        assert isinstance(action, Say)
        assert "Write where" in str(action.shown)


class TestFigures:
    def test_they_are_of_the_last_answer_and_of_all(self, conversation: Conversation) -> None:
        assert read("/stats", conversation) == ShowFigures()
        totals = Totals()
        for cached in (0, 10):
            stats = replace(
                STATS,
                cached_tokens=cached,
                mtp=MtpStats(3, 8, 6, (0.75,), 1.5, None),
                experts=ExpertStats(80, 20, 2_000_000, 5, 10, 100),
                memory=MemoryStats(3_000_000_000, 1_000_000_000 + cached),
            )
            totals.add(finished(stats=stats))
        shown = text(figures(totals, Setting("demo", 32768), 1234), 240)
        last, conversation_row, context = shown.splitlines()
        assert "demo · 77 tokens" in last
        assert "2 answers · 154 tokens · 91.2 tok/s · prompts 36 (10 cached)" in conversation_row
        assert (
            "drafts stood 75 % · experts hit 80 %, read 4.00 MB · memory at most 1.00 GB" in conversation_row
        )
        assert context.split(maxsplit=1)[1].strip() == "1,234 of 32,768"

    def test_before_the_first_answer_there_is_the_context(self) -> None:
        assert text(figures(Totals(), Setting("demo", 4096), 0)).split() == ["context", "0", "of", "4,096"]

    @pytest.mark.parametrize(("end", "said"), [("unclosed", "thought cut off"), ("closed", "· cut off")])
    def test_a_thought_that_was_cut_off_is_told_from_an_answer(self, end: Any, said: str) -> None:
        result = replace(finished("", "hm", "length"), thought_end=end)
        assert f"{said} at the token limit" in stats_line(result)


def test_a_setting_that_is_changed_is_asked_with_and_saved(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sequence[Any]] = []
    monkeypatch.setattr("cli.talk.answer", lambda *a: asked.append(a) or finished())
    keeping = Keeping(SessionLibrary(tmp_path), engine, "demo", PLAIN.facts(), automatic=False)
    keeping.session = ScriptedSession()  # pyright: ignore[reportAttributeAccessIssue]
    talk = Talk(
        Conversation(None, Thinking.hide),
        PLAIN,
        room("auto", "auto", 16),
        keeping,
        Console(stderr=True),
        True,
    )
    for line in ("/set temp 0.5", "/set think-budget 7", "/set think off", "hi"):
        talk.turn(line)
    config = asked[0][2]
    assert (config.temperature, config.thinking_budget, config.thinking) == (0.5, 7, False)
    assert keeping.settings["think_budget"] == 7


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
    with pytest.raises(ContextLengthError):
        talk.turn(f"/file {tmp_path / 'x.txt'}")
