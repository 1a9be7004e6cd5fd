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
from mlx_qnext.errors import UsageError


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


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/edit 3 x", "no question 3"),
        ("/edit 0 x", "no question 0"),
        ("/edit two", "no question two"),
        ("/think foo", "now it is show"),
        ("/load", "/sessions lists them"),
        ("/undo 2", "/undo takes nothing behind it, and here is 2"),
        ("/help exprt", "no command /exprt: did you mean /export?"),
        ("/claer", "no command /claer: did you mean /clear?"),
        ("/undu it", "no command /undu: did you mean /undo?"),
        ("/zzz", "no command /zzz: /help lists them"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_changes_nothing(
    line: str, said: str, conversation: Conversation
) -> None:
    before = conversation.messages
    with pytest.raises(UsageError, match=said):
        read(line, conversation)
    assert conversation.messages == before


@pytest.mark.parametrize(
    "line", ["/usr/bin/env is what?", "// TODO\nint x;", "/* x */", "/", " /etc is what?", "/1"]
)
def test_what_only_begins_with_a_slash_is_asked(line: str, conversation: Conversation) -> None:
    assert asked(conversation, line)[-1] == line.strip()


def test_a_command_may_be_written_large_and_as_elsewhere(conversation: Conversation) -> None:
    for line in ("/QUIT", "/exit", "/bye"):
        assert read(line, conversation) == Leave()
    assert said(read("/?", conversation)) == said(read("/help", conversation))
    assert read("/new", conversation) == Clear()


def test_help_has_a_line_for_every_command(conversation: Conversation) -> None:
    lines = said(read("/help", conversation)).splitlines()
    commands = [line.split()[0] for line in lines if line.startswith("/")]
    assert len(commands) == len(set(commands)) == len(COMMANDS) == 16


def test_each_command_says_more_of_itself(conversation: Conversation) -> None:
    for name, command in COMMANDS.items():
        for written in (name, name.removeprefix("/"), f" {name} N"):
            shown = " ".join(said(read(f"/help {written}", conversation)).split())
            assert shown.startswith(f"{command.usage}: {command.meaning}.")
        assert command.more.endswith(".")
        assert (command.takes == "nothing") == (command.argument == "")


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
