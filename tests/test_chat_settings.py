"""The options that are kept with a chat."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cli.settings import Settings

PLAIN = Settings(
    model=None,
    no_think=False,
    think_budget=None,
    temp=None,
    top_p=None,
    top_k=None,
    min_p=None,
    repetition_penalty=None,
    presence_penalty=None,
    seed=None,
    max_tokens=None,
    stop=(),
    draft="auto",
    context="auto",
    kv_bits=16,
    when_full="drop",
)


def test_they_are_saved_as_json_and_come_back() -> None:
    changed = replace(PLAIN, temp=0.0, stop=("x", "y"), kv_bits=8, no_think=True, model="demo")
    assert PLAIN.after(json.loads(json.dumps(changed.facts())), given=()) == changed


def test_those_that_are_given_stay() -> None:
    saved = {"temp": 0.5, "stop": ["x"], "draft": "2"}
    assert PLAIN.after(saved, given={"draft"}) == replace(PLAIN, temp=0.5, stop=("x",))


def test_what_was_saved_and_cannot_be_meant_is_left_out() -> None:
    unsound = {"temp": "hot", "stop": "x", "when_full": "never", "kv_bits": None, "model": 3, "new": 1}
    assert PLAIN.after(unsound, given=()) == PLAIN


def test_a_model_in_a_folder_is_found_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("weights", "thinking-4bit"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert replace(PLAIN, model="weights").facts()["model"] == str(tmp_path / "weights")
    assert replace(PLAIN, model="thinking-4bit").facts()["model"] == "thinking-4bit"
