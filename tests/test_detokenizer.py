"""Streaming text: nothing is lost, nothing is cut inside a character, nothing is said by special tokens."""

from __future__ import annotations

import unicodedata

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qwen_vocabulary import BYTE_SPELLINGS, MARKERS, SPECIAL, qwen_vocabulary
from tokenizers import decoders, models

from mlx_qnext.detokenizer import ByteLevelDetokenizer, WindowDetokenizer, detokenizer_for, spelled_bytes

AWKWARD = [
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽",  # joined by ZWJ, variation selectors, skin tones
    "漢字𠀀かな한국어",  # three- and four-byte characters
    "e\u0301 \u0915\u094d\u0937 Z\u0351\u036b\u0343",  # combining marks
    "שלום \u202bعربي\u202c",  # right to left, with direction marks
    "\x00\x7f\u0080\u07ff\u0800\uffff\U00010000\U0010ffff",  # the ends of each encoded length
    "\ufffd is a character too \ufffd\ufffd",
    "<think>\n</think> <tool_call>",
]


@pytest.fixture(scope="module")
def qwen():
    return qwen_vocabulary()


def streamed(detokenizer, ids):
    return [detokenizer.push(id) for id in ids] + [detokenizer.flush()]


def fallback_vocabulary() -> tokenizers.Tokenizer:
    """SentencePiece's way: a word starts with `▁`, and bytes without a word are spelled `<0xE4>`."""
    words = ["▁the", "▁cat", "▁", "s", "你", "<unk>"]
    vocabulary = {token: id for id, token in enumerate([*(f"<0x{byte:02X}>" for byte in range(256)), *words])}
    spm = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    spm.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return spm


FALLBACK = fallback_vocabulary()


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
@example("".join(AWKWARD))
def test_pieces_join_to_the_text_that_was_encoded(qwen, text):
    ids = qwen.encode(text, add_special_tokens=False).ids
    pieces = streamed(ByteLevelDetokenizer(qwen), ids)
    spoken = unicodedata.normalize("NFC", text)
    for special in SPECIAL:
        spoken = spoken.replace(special, "")
    assert "".join(pieces) == qwen.decode(ids) == spoken


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_text_comes_back_whole(qwen, text):
    ids = qwen.encode(text).ids
    assert "".join(streamed(ByteLevelDetokenizer(qwen), ids)) == unicodedata.normalize("NFC", text)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 152_000), max_size=30))
def test_any_tokens_at_all_decode_as_the_library_decodes_them(qwen, ids):
    assert "".join(streamed(ByteLevelDetokenizer(qwen), ids)) == qwen.decode(ids)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=12))
def test_bytes_that_are_no_text_become_replacement_characters(qwen, data):
    ids = [qwen.token_to_id(BYTE_SPELLINGS[byte]) for byte in data]
    assert "".join(streamed(ByteLevelDetokenizer(qwen), ids)) == data.decode(errors="replace")


def check_that_characters_come_whole(detokenizer, ids_of_bytes, text):
    for character in text:
        *first, last = [detokenizer.push(ids_of_bytes[byte]) for byte in character.encode()]
        assert first == [""] * len(first)
        assert last == character
    assert detokenizer.flush() == ""


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=20))
@example("😀漢é\ufffd")
def test_each_character_comes_with_its_last_byte_and_not_before(qwen, text):
    ids_of_bytes = [qwen.token_to_id(spelling) for spelling in BYTE_SPELLINGS]
    check_that_characters_come_whole(ByteLevelDetokenizer(qwen), ids_of_bytes, text)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters=" \ufffd"), max_size=20))
@example("😀漢é")
def test_another_vocabulary_gives_whole_characters_too(text):
    check_that_characters_come_whole(WindowDetokenizer(FALLBACK), range(256), text)


def test_special_tokens_say_nothing_and_the_markers_are_spelled(qwen):
    detokenizer = ByteLevelDetokenizer(qwen)
    assert [detokenizer.push(qwen.token_to_id(token)) for token in SPECIAL] == [""] * len(SPECIAL)
    assert [detokenizer.push(qwen.token_to_id(token)) for token in MARKERS] == MARKERS


def test_ids_past_the_vocabulary_say_nothing(qwen):
    assert ByteLevelDetokenizer(qwen).push(151_935) == ""


def test_an_unfinished_character_is_flushed_once_as_a_replacement_character(qwen):
    detokenizer = ByteLevelDetokenizer(qwen)
    ids = [qwen.token_to_id(BYTE_SPELLINGS[byte]) for byte in "a😀".encode()[:-1]]
    assert [detokenizer.push(id) for id in ids] == ["a", "", "", ""]
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""


def test_every_byte_has_its_spelling():
    assert [spelled_bytes(spelling) for spelling in BYTE_SPELLINGS] == [bytes([byte]) for byte in range(256)]


def test_the_decoder_of_the_vocabulary_chooses(qwen):
    assert isinstance(detokenizer_for(qwen), ByteLevelDetokenizer)
    assert isinstance(detokenizer_for(FALLBACK), WindowDetokenizer)


def test_another_vocabulary_keeps_its_spaces_and_drops_only_the_first():
    ids = [FALLBACK.token_to_id(token) for token in ("▁the", "▁cat", "s", "▁the", "▁", "你")]
    assert streamed(WindowDetokenizer(FALLBACK), ids) == ["the", " cat", "s", " the", " ", "你", ""]


def test_another_vocabulary_does_not_hold_back_broken_bytes_for_ever():
    detokenizer = WindowDetokenizer(FALLBACK)
    pieces = [detokenizer.push(0xE4) for _ in range(8)]
    assert "".join(pieces) == "\ufffd" * 8
