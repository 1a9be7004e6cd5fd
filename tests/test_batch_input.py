"""The lines of a batch: each is a request, or a sentence that says why it is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cli.batch_input import Entry, entries
from mlx_qnext.errors import UsageError
from mlx_qnext.generate.batch_request import BatchRequest
from mlx_qnext.generate.request import GenerationConfig

CONFIG = GenerationConfig(max_tokens=7)


def lines(*objects: Any) -> bytes:
    return b"".join(o if isinstance(o, bytes) else json.dumps(o).encode() + b"\n" for o in objects)


def read(content: bytes, name: str = "in.jsonl", system: str | None = None) -> list[Entry]:
    return entries(content, name, system, CONFIG)


def test_a_line_says_what_it_wants_and_takes_the_rest_from_the_command() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    overrides = {"temperature": 0, "seed": 3, "stop": "x", "thinking": False, "thinking_budget": 9}
    first, second = read(
        lines(
            {"id": "a", "messages": messages, **overrides, "tools": [{"type": "function"}]},
            {"id": 2, "prompt": "Hello", "top_k": None},
        ),
        system="Be brief.",
    )
    assert isinstance(first.asked, BatchRequest)
    assert first.asked.config == GenerationConfig(
        max_tokens=7, temperature=0, seed=3, stop=("x",), thinking=False, thinking_budget=9
    )
    assert first.asked.tools == [{"type": "function"}]
    assert first.asked.messages == [{"role": "system", "content": "Be brief."}, *messages]
    assert (second.id, second.line) == (2, 2)
    assert isinstance(second.asked, BatchRequest)
    assert second.asked.config == CONFIG


def test_messages_that_have_a_system_message_keep_it() -> None:
    messages = [{"role": "system", "content": "Be long."}, {"role": "user", "content": "Hi"}]
    (entry,) = read(lines({"id": 1, "messages": messages}), system="Be brief.")
    assert isinstance(entry.asked, BatchRequest)
    assert entry.asked.messages == messages


@pytest.mark.parametrize(
    ("content", "name"), [(b"\xef\xbb\xbfOne\r\n\n{2}\n", "-"), (b"One\n\n{2}\n", "in.txt")]
)
def test_plain_text_is_a_prompt_a_line(content: bytes, name: str) -> None:
    found = read(content, name)
    assert [(entry.id, entry.line) for entry in found] == [(1, 1), (3, 3)]
    asked = [entry.asked for entry in found if isinstance(entry.asked, BatchRequest)]
    assert [request.messages[0]["content"] for request in asked] == ["One", "{2}"]


def test_a_text_file_may_begin_with_a_brace() -> None:
    (entry,) = read(b"{1}\n", "in.txt")
    assert isinstance(entry.asked, BatchRequest)


@pytest.mark.parametrize(
    ("line", "own", "reason"),
    [
        (b"{\n", None, "not JSON"),
        (b"[" * 100_000 + b"\n", None, "nested too deeply"),
        (b'{"id": "\xff"}\n', None, "not UTF-8 (byte 8)"),
        (b"7\n", None, "expected an object"),
        ({"prompt": "x"}, None, "has no id"),
        ({"id": True, "prompt": "x"}, None, "expected a string or a whole number"),
        ({"id": "\ud800", "prompt": "x"}, None, "expected valid Unicode"),
        ({"id": 1}, 1, "either a prompt or messages"),
        ({"id": 1, "prompt": "x", "messages": []}, 1, "either a prompt or messages"),
        ({"id": 1, "prompt": " "}, 1, "expected text"),
        ({"id": 1, "messages": []}, 1, "a list of objects with role"),
        ({"id": 1, "messages": ["x"]}, 1, "a list of objects with role"),
        ({"id": 1, "prompt": "x", "temprature": 1}, 1, "did you mean temperature?"),
        ({"id": 1, "prompt": "x", "zzz": 1}, 1, "expected some of id"),
        ({"id": 1, "prompt": "x", "temperature": "hot"}, 1, "expected a number"),
        ({"id": 1, "prompt": "x", "temperature": -1}, 1, "expected a number in [0, 100]"),
        ({"id": 1, "prompt": "x", "seed": 1.5}, 1, "expected a whole number"),
        ({"id": 1, "prompt": "x", "max_tokens": True}, 1, "expected a number"),
        ({"id": 1, "prompt": "x", "thinking": 1}, 1, "expected true or false"),
        ({"id": 1, "prompt": "x", "stop": [1]}, 1, "a string or a list of strings"),
        ({"id": 1, "prompt": "x", "stop": [""]}, 1, "stop string is empty"),
        ({"id": 1, "prompt": "x", "tools": {}}, 1, "expected a list of objects"),
    ],
)
def test_a_bad_line_says_in_a_sentence_what_is_wrong_and_the_rest_goes_on(
    line: Any, own: int | None, reason: str
) -> None:
    good = {"id": "good", "prompt": "x"}
    first, bad = read(lines(good, line))
    assert isinstance(first.asked, BatchRequest)
    assert (bad.id, bad.line) == (own, 2)
    assert isinstance(bad.asked, str)
    assert bad.asked.startswith("line 2 ")
    assert reason in bad.asked
    assert "\n" not in bad.asked


def test_the_later_of_two_lines_with_one_id_is_bad() -> None:
    found = read(lines({"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}, {"id": 1, "prompt": "z"}))
    assert [isinstance(entry.asked, BatchRequest) for entry in found] == [True, False, True]
    assert found[1].asked == "line 2 has the id 'a' of line 1: give it its own."


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_input_that_asks_nothing_is_refused(content: bytes) -> None:
    with pytest.raises(UsageError, match="is empty"):
        read(content)


def test_another_encoding_is_named_once_and_not_line_by_line() -> None:
    with pytest.raises(UsageError, match="UTF-16"):
        read("One\nTwo\n".encode("utf-16"), "in.txt")
