"""What a line typed into a chat means, without a model."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from fakes.engine import finished
from rich.console import Console

from cli.actions import Action, Ask, Clear, Leave, ListSaved, Load, Nothing, Save, Say
from cli.commands import COMMANDS, read
from cli.conversation import Conversation
from cli.views.thought import Thinking


@pytest.fixture
def conversation() -> Conversation:
    """Of two turns."""
    conversation = Conversation("Be brief.", Thinking.show)
    for question in ("one?", "two?"):
        conversation.answered(conversation.question(question), finished(f"{question}!", "hm"))
    return conversation


def said(action: Action) -> str:
    """What an action shows, as plain text."""
    assert isinstance(action, Say)
    console = Console(width=80, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(action.shown)
    return captured.get()


def asked(conversation: Conversation, line: str) -> list[str]:
    """The contents of the messages that a line makes."""
    action = read(line, conversation)
    assert isinstance(action, Ask)
    return [message["content"] for message in conversation.prompt(action.question)]


def test_what_begins_with_no_slash_is_asked(conversation: Conversation) -> None:
    assert asked(conversation, " three? ") == ["Be brief.", "one?", "one?!", "two?", "two?!", "three?"]
    assert read("  ", conversation) == Nothing()


def test_retry_asks_the_last_question_where_it_was_asked(conversation: Conversation) -> None:
    before = conversation.messages
    action = read("/retry", conversation)
    assert isinstance(action, Ask)
    assert action.again
    assert asked(conversation, "/retry") == ["Be brief.", "one?", "one?!", "two?"]
    assert conversation.messages == before
    conversation.answered(action.question, finished("another"))
    assert conversation.messages == [
        *before[:-1],
        {"role": "assistant", "content": "another", "reasoning_content": ""},
    ]


def test_a_retry_that_says_nothing_leaves_the_answer_that_was_there(conversation: Conversation) -> None:
    before = conversation.messages
    action = read("/retry", conversation)
    assert isinstance(action, Ask)
    assert not conversation.answered(action.question, finished("", reason="cancelled"))
    assert conversation.messages == before


def test_edit_asks_anew_and_forgets_what_came_later_once_it_is_answered(conversation: Conversation) -> None:
    assert asked(conversation, "/edit 1 uno?\nos?") == ["Be brief.", "uno?\nos?"]
    action = read("/edit 1 uno?", conversation)
    assert isinstance(action, Ask)
    assert len(conversation.questions) == 2
    conversation.answered(action.question, finished("1"))
    assert conversation.questions == ["uno?"]


def test_edit_lists_the_questions_and_says_what_is_missing(conversation: Conversation) -> None:
    assert said(read("/edit", conversation)).split()[:4] == ["1", "one?", "2", "two?"]
    assert "no question 3" in said(read("/edit 3 x", conversation))
    assert "no question 0" in said(read("/edit 0 x", conversation))
    assert "no question two" in said(read("/edit two", conversation))
    assert "one?" in said(read("/edit 1", conversation))


def test_undo_forgets_one_exchange_after_the_other(conversation: Conversation) -> None:
    assert "two?" in said(read("/undo", conversation))
    assert conversation.questions == ["one?"]
    read("/undo", conversation)
    assert [message["role"] for message in conversation.messages] == ["system"]


@pytest.mark.parametrize("line", ["/retry", "/undo", "/edit", "/edit 1 x"])
def test_nothing_is_changed_where_nothing_was_asked(line: str) -> None:
    assert "Nothing was asked" in said(read(line, Conversation("Be brief.", Thinking.collapse)))


def test_clear_keeps_the_system_message_alone(conversation: Conversation) -> None:
    assert read("/clear", conversation) == Clear()
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]


def test_system_is_shown_and_set(conversation: Conversation) -> None:
    assert said(read("/system", conversation)) == "Be brief.\n"
    read("/system Be kind, \n and patient.", conversation)
    assert conversation.messages[0] == {"role": "system", "content": "Be kind, \n and patient."}
    assert len(conversation.questions) == 2
    assert "no system message" in said(read("/system", Conversation(None, Thinking.collapse)))


def test_think_says_what_becomes_of_thoughts(conversation: Conversation) -> None:
    assert "now it is show" in said(read("/think", conversation))
    assert "hidden" in said(read("/think hide", conversation))
    assert conversation.thinking is Thinking.hide


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ("/quit", Leave()),
        ("/sessions", ListSaved()),
        ("/save", Save(None)),
        ("/save  my  notes ", Save("my  notes")),
        ("/load notes", Load("notes")),
    ],
)
def test_what_is_about_more_than_the_messages_is_left_to_the_chat(line: str, action: Action) -> None:
    assert read(line, Conversation(None, Thinking.collapse)) == action


def test_load_says_where_names_come_from(conversation: Conversation) -> None:
    assert "/sessions" in said(read("/load", conversation))


def test_help_has_a_line_for_every_command(conversation: Conversation) -> None:
    lines = said(read("/help", conversation)).splitlines()
    commands = [line.split()[0] for line in lines if line.startswith("/")]
    assert len(commands) == len(set(commands)) == len(COMMANDS) == 16
    for command in commands:
        assert "no command" not in said_if_anything(read(command, conversation))


def said_if_anything(action: Action) -> str:
    return said(action) if isinstance(action, Say) else ""


@pytest.mark.parametrize(("line", "hint"), [("/claer", "/clear"), ("/undu it", "/undo"), ("/zzz", "/help")])
def test_an_unknown_command_suggests_the_nearest(line: str, hint: str, conversation: Conversation) -> None:
    assert f"no command {line.split()[0]}" in said(read(line, conversation))
    assert hint in said(read(line, conversation))


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "system", "content": "a"}],
        [{"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}],
        [
            {"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "user", "content": None},
        ],
    ],
)
def test_a_conversation_goes_on_from_messages_of_any_kind(messages: Sequence[dict[str, object]]) -> None:
    conversation = Conversation("old", Thinking.collapse)
    conversation.go_on_from(messages)
    roles = [message["role"] for message in messages]
    assert [message["role"] for message in conversation.messages] == roles
    assert len(conversation.questions) == roles.count("user")
    assert conversation.system in (None, "a", "ab")
