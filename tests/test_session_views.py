"""What is shown of saved chats and of a chat's commands, at fixed widths, against text that is checked in."""

from __future__ import annotations

import pytest
from rich.cells import cell_len
from rich.console import RenderableType
from test_views import check, console

from cli.actions import Say
from cli.commands import read
from cli.conversation import Conversation
from cli.views.commands import question_list
from cli.views.sessions import SessionList, goes_on, saved_as, transcript
from cli.views.thought import Thinking

SESSIONS = [
    {
        "name": "2026-11-24-181530",
        "saved_at": "2026-11-24T18:31:02+01:00",
        "model": "thinking-4bit",
        "turns": 12,
        "cached_tokens": 21_480,
        "title": "How do I sort a list of names that are written in several scripts, 日本語 among them?",
        "bytes": 724_000_000,
        "problem": None,
    },
    {
        "name": "notes",
        "saved_at": "2026-11-02T09:00:00+01:00",
        "model": "demo",
        "turns": 1,
        "cached_tokens": 94,
        "title": "What is 47 + 85?\x1b[2J",
        "bytes": 3_750_000,
        "problem": None,
    },
    {
        "name": "broken",
        "saved_at": "2026-10-01T10:00:00+02:00",
        "model": None,
        "turns": None,
        "cached_tokens": None,
        "title": None,
        "bytes": 1_200_000,
        "problem": "was damaged on disk",
    },
]
QUESTIONS = [
    "What is 47 + 85?",
    "And plus 10?\nIn words, please. " + "Thank you. " * 12,
    "寿司を三貫とお茶を二杯で?",
]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What is\n47 + 85?"}]},
    {"role": "assistant", "content": "", "reasoning_content": "a tool", "tool_calls": [{"name": "add"}]},
    {"role": "tool", "content": "132"},
    {"role": "assistant", "content": "\n\n132.\n", "reasoning_content": "7 + 5 is 12,\n\ncarry 1\n"},
]


def shown(renderable: RenderableType, width: int, *, terminal: bool = False, color: bool = True) -> str:
    screen, file = console(width, terminal=terminal, color=color)
    screen.print(renderable, soft_wrap=False)
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 70, 100])
def test_saved_chats_are_a_table_where_it_finds_room(width: int) -> None:
    text = shown(SessionList(SESSIONS), width)
    check(f"sessions-{width}", text)
    assert max(map(cell_len, text.splitlines())) <= width


def test_saved_chats_without_colour_have_none_and_no_name_moves_the_cursor() -> None:
    text = shown(SessionList(SESSIONS), 100, terminal=True, color=False)
    assert not any(f"\x1b[{code}" in text for code in ("31", "32", "33", "34", "35", "36", "2J"))
    assert "\x1b[31m" in shown(SessionList(SESSIONS), 100, terminal=True)


@pytest.mark.parametrize("width", [40, 100])
def test_questions_have_a_number_and_a_line_each(width: int) -> None:
    text = shown(question_list(QUESTIONS), width)
    check(f"questions-{width}", text)
    assert max(map(cell_len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [40, 100])
def test_help_has_every_command(width: int) -> None:
    action = read("/help", Conversation(None, Thinking.collapse))
    assert isinstance(action, Say)
    check(f"commands-{width}", shown(action.shown, width))


@pytest.mark.parametrize("thinking", [False, True])
def test_a_transcript_is_plain_text(thinking: bool) -> None:
    check(f"transcript{'-thinking' * thinking}", transcript(MESSAGES, thinking=thinking))


def test_sentences_about_saved_chats() -> None:
    assert (
        saved_as("notes", 3, 4_200_000) == "Saved as notes (3 turns, 4.20 MB); qnext chat --resume goes on."
    )
    assert goes_on("notes", 1, 94) == "Going on with notes: 1 turn, 94 tokens remembered."
