"""Chat templates: the same characters as transformers writes, and one sentence when a template fails or misbehaves."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models

from mlx_qnext.chat_template import ChatTemplate, opens_thinking, skip_thought
from mlx_qnext.errors import TokenizerError
from mlx_qnext.tokenizer import Tokenizer

VECTORS = Path(__file__).parent / "vectors" / "templates"
GRID = json.loads((VECTORS / "conversations.json").read_text(encoding="utf-8"))
EXPECTED = json.loads((VECTORS / "expected.json").read_text(encoding="utf-8"))["expected"]
HELLO = [{"role": "user", "content": "hello"}]


def tokenizer_with(template: str) -> Tokenizer:
    vocabulary = tokenizers.Tokenizer(models.WordLevel({}))
    return Tokenizer(vocabulary, ChatTemplate(template), GRID["named_tokens"], frozenset())


@pytest.mark.parametrize("conversation", GRID["conversations"])
@pytest.mark.parametrize("template", [file.stem for file in VECTORS.glob("*.jinja")])
def test_renders_the_characters_that_transformers_renders(template, conversation):
    tokenizer = tokenizer_with((VECTORS / f"{template}.jinja").read_text(encoding="utf-8"))
    for request, expected in zip(GRID["requests"], EXPECTED[template][conversation], strict=True):
        tools = GRID["tools"] if request["tools"] else None
        rendered = tokenizer.render(
            GRID["conversations"][conversation], tools, request["thinking"], request["generation_prompt"]
        )
        skips = request["thinking"] is False and request["generation_prompt"]
        assert rendered == (skip_thought(expected) if skips else expected)


def test_the_vectors_cover_every_template_and_conversation():
    assert set(EXPECTED) == {file.stem for file in VECTORS.glob("*.jinja")}
    assert all(set(rendered) == set(GRID["conversations"]) for rendered in EXPECTED.values())


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{% if %}", "The chat template is not valid Jinja (line 1: Expected an expression"),
        ("\n{{ open", "The chat template is not valid Jinja (line 2: "),
        ("{% unknown %}", "The chat template is not valid Jinja (line 1: Encountered unknown tag"),
        ("{{ 'a' | nofilter }}", "The chat template is not valid Jinja (line 1: No filter named 'nofilter'"),
        ("{{ raise_exception('Roles must\nalternate.') }}", "refuses these messages (Roles must alternate.)"),
        ("{{ messages[0].nothing.deeper }}", "fails on these messages (UndefinedError: "),
        ("{{ 'text' + 1 }}", "fails on these messages (TypeError: "),
        ("{{ 1 // 0 }}", "fails on these messages (ZeroDivisionError: "),
        (
            "{% for i in range(1000000000) %}x{% endfor %}",
            "fails on these messages (OverflowError: Range too big",
        ),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails on these messages (RecursionError: "),
        ("{% include '/etc/hostname' %}", "fails on these messages (TypeError: no loader"),
        ("{{ ''.__class__.__mro__ }}", "tries what a template may not do ("),
        ("{{ raise_exception.__globals__['json'] }}", "tries what a template may not do ("),
        ("{{ strftime_now.__builtins__['open']('/etc/hostname') }}", "tries what a template may not do ("),
        ("{{ dict.mro() }}", "tries what a template may not do ("),
        ("{{ '{0.__class__.__mro__}'.format('') }}", "tries what a template may not do ("),
        ("{{ messages.append(1) }}", "tries what a template may not do ("),
        ("{{ messages[0].update(role='system') }}", "tries what a template may not do ("),
        ("{% set n = namespace(__class__=1) %}", "tries what a template may not do ("),
        ("{% set n = namespace() %}{% set n.__call__ = 1 %}", "tries what a template may not do ("),
    ],
)
def test_a_template_that_fails_is_one_sentence(template, sentence):
    with pytest.raises(TokenizerError) as caught:
        tokenizer_with(template).render(HELLO)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_template_cannot_change_the_callers_messages_nor_reach_their_methods():
    messages = (types.MappingProxyType({"role": "user", "content": "hello"}),)
    text = tokenizer_with("{{ messages[0] | tojson }}{{ messages[0].copy is defined }}").render(messages)
    assert text == '{"role": "user", "content": "hello"}True'


def test_a_message_of_something_else_than_json_is_refused_by_its_type():
    with pytest.raises(TokenizerError, match="a value of type bytes"):
        tokenizer_with("{{ messages }}").render([{"role": "user", "content": b"hello"}])


def test_messages_nested_too_deeply_are_one_sentence():
    content: list = []
    for _ in range(5_000):
        content = [content]
    with pytest.raises(TokenizerError, match="RecursionError"):
        tokenizer_with("{{ messages }}").render([{"role": "user", "content": content}])


def test_thinking_is_undefined_unless_it_is_asked_for():
    tokenizer = tokenizer_with("{{ enable_thinking is defined }}{{ enable_thinking }}")
    assert [tokenizer.render(HELLO, thinking=thinking) for thinking in (None, True, False)] == [
        "False",
        "TrueTrue",
        "TrueFalse",
    ]


def test_the_date_is_the_local_one():
    text = tokenizer_with("{{ strftime_now('%Y-%m-%d') }}").render(HELLO)
    assert len(text) == len("2000-01-01")
    assert text[4] == text[7] == "-"


@pytest.mark.parametrize("opened", ["a<think>", "a<think>\n", "a<think>\n\n"])
def test_an_open_thought_is_seen_and_can_be_closed_as_templates_close_it(opened):
    assert opens_thinking(opened)
    assert skip_thought(opened) == "a<think>\n\n</think>\n\n"
    assert not opens_thinking(skip_thought(opened))


@pytest.mark.parametrize("text", ["", "a\n", "<think>\n\n</think>\n\n", "<think> about it", "</think>\n"])
def test_a_prompt_without_an_open_thought_stays_as_it_is(text):
    assert not opens_thinking(text)
    assert skip_thought(text) == text


def test_skipping_the_thought_works_where_the_template_ignores_it():
    tokenizer = tokenizer_with((VECTORS / "thinking.jinja").read_text(encoding="utf-8"))
    assert tokenizer.render(HELLO).endswith("<|im_start|>assistant\n<think>\n")
    assert tokenizer.render(HELLO, thinking=False).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.render(HELLO, thinking=False, generation_prompt=False).endswith("hello<|im_end|>\n")
