"""Conversations as files, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chats import NOTES, one_turn
from fakes.engine import finished

from cli.actions import Export
from cli.commands import read
from cli.conversation import ASKED_FROM, Conversation, Message
from cli.exporting import export
from cli.record import record
from cli.views.thought import Thinking
from mlx_qnext import Engine
from mlx_qnext.errors import OutputError, UsageError
from mlx_qnext.generate.events import Finished
from mlx_qnext.generate.request import GenerationConfig


@pytest.fixture
def conversation() -> Conversation:
    """Of one turn."""
    return one_turn()


@pytest.fixture
def messages(conversation: Conversation) -> list[Message]:
    conversation.attached = [NOTES]
    conversation.answered(conversation.question("What is it?"), finished("2"))
    return conversation.messages


def test_markdown_reads_well(messages: list[Message], tmp_path: Path) -> None:
    file = export(str(tmp_path / "x.md"), "demo", messages, thinking=True, overwrite=False)
    assert file.read_text() == (
        "# A conversation with demo\n\n## System message\n\nBe brief.\n\n## Question\n\none?\n\n## Answer\n\n"
        "> hm\n>\n> well\n\n1.\n\n## Question\n\nnotes.txt:\n```\none\ntwo\n```\n\nWhat is it?\n\n## Answer\n\n2\n"
    )


def test_json_has_messages_that_can_be_asked_again(messages: list[Message], tmp_path: Path) -> None:
    file = export(str(tmp_path / "x.JSON"), "demo", messages, thinking=True, overwrite=False)
    told = json.loads(file.read_text())
    assert told["model"] == "demo"
    plain = [{k: v for k, v in each.items() if k != ASKED_FROM and v != ""} for each in messages]
    assert told["messages"] == plain


@pytest.mark.parametrize("name", ["x.md", "x.json"])
def test_thoughts_are_written_only_if_asked_for(name: str, messages: list[Message], tmp_path: Path) -> None:
    file = export(str(tmp_path / name), "demo", messages, thinking=False, overwrite=False)
    assert "hm" not in file.read_text()
    assert "reasoning_content" not in file.read_text()


def test_a_file_is_replaced_only_if_asked_for(messages: list[Message], tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        export(str(tmp_path / "x.md"), "demo", messages, thinking=False, overwrite=False)
    assert (tmp_path / "x.md").read_text() == "mine"
    export(str(tmp_path / "x.md"), "demo", messages, thinking=False, overwrite=True)
    assert [each.name for each in tmp_path.iterdir()] == ["x.md"]


def test_what_cannot_be_written_is_said(messages: list[Message], tmp_path: Path) -> None:
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
def test_a_line_is_a_path_and_flags(line: str, action: Export, conversation: Conversation) -> None:
    assert read(line, conversation) == action


@pytest.mark.parametrize("line", ["/export", "/export --thinking"])
def test_a_path_has_to_be_named(line: str, conversation: Conversation) -> None:
    with pytest.raises(UsageError, match="Write where"):
        read(line, conversation)


def test_a_tool_call_that_nobody_offered_is_part_of_what_was_said(engine: Engine, tmp_path: Path) -> None:
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"name": "get_weather", "description": "Get the weather of a city", "parameters": city}
    described = engine.tokenizer.render(
        [{"role": "user", "content": "-"}], [{"type": "function", "function": tool}], thinking=False
    )
    system = described.partition("system\n")[2].partition("<|im_end|>")[0]
    conversation = Conversation(system, Thinking.hide)
    question = conversation.question("What is the weather in Paris?")
    config = GenerationConfig(temperature=0, thinking=False, max_tokens=40)
    *_, result = engine.session().generate(conversation.prompt(question), config)
    assert isinstance(result, Finished)
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    assert json.loads(record(result, "demo"))["text"] == call
    conversation.answered(question, result)
    again = conversation.prompt(conversation.question("And in Rome?"))
    assert call in engine.tokenizer.render(again, thinking=False)
    for name in ("x.md", "x.json"):
        file = export(str(tmp_path / name), "demo", conversation.messages, thinking=False, overwrite=False)
        assert "get_weather" in file.read_text().partition("What is the weather")[2]
