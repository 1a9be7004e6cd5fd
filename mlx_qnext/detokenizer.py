"""Tokens → text, one token at a time, and never half a character.

A byte-level vocabulary cuts text anywhere, also inside a UTF-8 character: the bytes of an unfinished one are
held back until it is complete. Special tokens (`<|im_end|>`) have no text; other added tokens (`<think>`) do.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Protocol

import tokenizers
from tokenizers import decoders

# A UTF-8 character has at most this many bytes, and each token of an unfinished one carries one of them.
_LONGEST_CHARACTER_BYTES = 4
_REPLACEMENT = "\ufffd"


class Detokenizer(Protocol):
    """One answer's text as it comes; bytes that are not UTF-8 become U+FFFD."""

    def push(self, token: int) -> str:
        """The text that became certain with `token`; empty for special tokens and inside a character."""
        ...

    def flush(self) -> str:
        """What was held back: an unfinished character, as U+FFFD."""
        ...


def detokenizer_for(vocabulary: tokenizers.Tokenizer) -> Detokenizer:
    """A fresh detokenizer of the kind that the vocabulary's decoder needs."""
    if isinstance(vocabulary.decoder, decoders.ByteLevel):
        return ByteLevelDetokenizer(vocabulary)
    return WindowDetokenizer(vocabulary)


class ByteLevelDetokenizer:
    """For vocabularies that spell each byte as a character, as GPT-2's and Qwen's: exact, constant time a token."""

    def __init__(self, vocabulary: tokenizers.Tokenizer) -> None:
        self._vocabulary = vocabulary
        self._special = _special_ids(vocabulary)
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that became certain with `token`."""
        spelling = None if token in self._special else self._vocabulary.id_to_token(token)
        # The model's output layer is wider than the vocabulary: ids past its end spell nothing.
        return "" if spelling is None else self._utf8.decode(spelled_bytes(spelling))

    def flush(self) -> str:
        """What was held back."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


class WindowDetokenizer:
    """For any other vocabulary: decodes a few tokens together and emits what the newest one adds.

    The tokens whose text is out already stay in the window until newer ones are, because a decoder may treat
    the first token differently (SentencePiece's drops its space).
    """

    def __init__(self, vocabulary: tokenizers.Tokenizer) -> None:
        self._vocabulary = vocabulary
        self._window: list[int] = []
        self._emitted_tokens = 0
        self._emitted = ""  # the text of the window's first `_emitted_tokens`

    def push(self, token: int) -> str:
        """The text that became certain with `token`."""
        self._window.append(token)
        text = self._vocabulary.decode(self._window)
        held_tokens = len(self._window) - self._emitted_tokens
        if text.endswith(_REPLACEMENT) and held_tokens < _LONGEST_CHARACTER_BYTES:
            return ""
        piece = text[len(self._emitted) :]
        if piece:
            self._window = self._window[self._emitted_tokens :]
            self._emitted = self._vocabulary.decode(self._window)
            self._emitted_tokens = len(self._window)
        return piece

    def flush(self) -> str:
        """What was held back."""
        piece = self._vocabulary.decode(self._window)[len(self._emitted) :]
        self._window, self._emitted_tokens, self._emitted = [], 0, ""
        return piece


def spelled_bytes(spelling: str) -> bytes:
    """The bytes that a byte-level vocabulary spells so; a spelling with other characters stands for itself."""
    try:
        return bytes(_BYTE_OF[character] for character in spelling)
    except KeyError:
        return spelling.encode()


def _special_ids(vocabulary: tokenizers.Tokenizer) -> frozenset[int]:
    return frozenset(id for id, added in vocabulary.get_added_tokens_decoder().items() if added.special)


def _byte_spellings() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 bytes are spelled as themselves, the others in order from U+0100 up."""
    printable = [*_span("!", "~"), *_span("¡", "¬"), *_span("®", "ÿ")]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _span(first: str, last: str) -> Iterable[int]:
    return range(ord(first), ord(last) + 1)


_BYTE_OF = _byte_spellings()
