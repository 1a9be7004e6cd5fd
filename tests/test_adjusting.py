"""Settings of a chat that are shown and changed while it lasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chats import one_turn, text
from fakes.engine import ScriptedSession, finished
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_chat_settings import PLAIN

from cli.actions import Change
from cli.adjusting import NAMES, changed, shown
from cli.commands import read
from cli.conversation import Conversation
from cli.keeping import Keeping
from cli.options import room
from cli.talk import Talk
from cli.views.commands import setting_list
from cli.views.thought import Thinking
from mlx_qnext import Engine
from mlx_qnext.errors import UsageError
from mlx_qnext.generation_defaults import GenerationDefaults
from mlx_qnext.sessions.library import SessionLibrary

DEFAULTS = GenerationDefaults(temperature=0.6, top_k=20, top_p=0.95)


@pytest.fixture
def conversation() -> Conversation:
    """Of one turn."""
    return one_turn()


def listed(settings: Any = PLAIN, name: str | None = None) -> dict[str, tuple[str, str]]:
    return {each.name: (each.value, each.origin) for each in shown(settings, DEFAULTS, name)}


def test_they_are_shown_with_where_they_come_from() -> None:
    rows = listed(replace(PLAIN, temp=0.0, no_think=True, think_budget=0))
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
        ("MAX_TOKENS", "5", "max_tokens", 5),
        ("temperature", "1", "temp", 1.0),
        ("thinking_budget", "0", "think_budget", 0),
        ("Think", "OFF", "no_think", True),
    ],
)
def test_one_is_changed_and_taken_back(name: str, value: str, field: str, expected: object) -> None:
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
        ("think", "maybe", "think is 'maybe', expected on, off or default"),
        ("think-budget", "-1", "thinking budget is -1"),
        ("tmp", "1", "no setting tmp: did you mean temp"),
        ("xyzzy", "1", "expected one of temp"),
    ],
)
def test_what_cannot_be_meant_is_refused_as_an_option_is(name: str, value: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        changed(PLAIN, name, value)


@given(st.sampled_from(NAMES), st.text(max_size=8))
def test_any_other_word_changes_it_soundly_or_is_refused(name: str, value: str) -> None:
    try:
        settings = changed(PLAIN, name, value)
    except UsageError:
        return
    settings.request()
    list(shown(settings, DEFAULTS))


def test_their_names_are_whole_on_narrow_terminals() -> None:
    told = text(setting_list(shown(PLAIN, DEFAULTS)), 40)
    assert {line.split()[0] for line in told.splitlines() if line[:1].isalpha()} >= set(NAMES)
    assert max(map(len, told.splitlines())) <= 40


def test_a_line_is_read_as_name_and_value(conversation: Conversation) -> None:
    assert read("/set", conversation) == Change(None, None)
    assert read("/set temp", conversation) == Change("temp", None)
    for line in ("/set  temp  0.5", "/set temp=0.5", "/set temp = 0.5"):
        assert read(line, conversation) == Change("temp", "0.5")


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
