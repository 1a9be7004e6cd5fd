"""Texts to evaluate on: plain text cut into windows, or JSON lines of texts and chats."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from mlx_qnext.errors import TokenizerError, UsageError
from mlx_qnext.json_fields import shown
from mlx_qnext.tokenizer import Tokenizer

DEFAULT_TEXT = Path(__file__).parent / "evaluation.txt"
"""Prose, code and arithmetic, for models that know the world: what is read where the user names no file."""

WINDOW_TOKENS = 512
MOST_TOKENS = 16384
# Fewer make a mean of nothing.
_FEWEST_TOKENS = 64
# More characters than any vocabulary puts into `MOST_TOKENS`; the rest of a large file is not read.
_MOST_BYTES = 4 << 20


def documents_from(
    file: Path, tokenizer: Tokenizer, window: int = WINDOW_TOKENS, most_tokens: int = MOST_TOKENS
) -> list[list[int]]:
    """The first `most_tokens` tokens of `file`, in pieces of at most `window`.

    A `.jsonl` file has an object on each line: `{"text": …}`, special tokens spelled out, or `{"messages": […]}`, with `tools`
    where there are any, rendered by the chat template. Any other file is one text.

    Raises:
        UsageError: missing, unreadable, empty, not UTF-8, too short, or a line that is none of these.
        TokenizerError: the chat template fails on a line's messages.
    """
    documents: list[list[int]] = []
    room = most_tokens
    for text in _lines(file, tokenizer) if file.suffix == ".jsonl" else _text(file):
        tokens = tokenizer.encode(text)[:room]
        documents += [tokens[start : start + window] for start in range(0, len(tokens), window)]
        room -= len(tokens)
        if room < 1:
            break
    if most_tokens - room < _FEWEST_TOKENS:
        raise UsageError(
            f"{file} holds {most_tokens - room} tokens, expected at least {_FEWEST_TOKENS} to evaluate on: give a longer text."
        )
    return [document for document in documents if len(document) > 1]


def _text(file: Path) -> Iterator[str]:
    content = _read(file)
    try:
        # A character that the limit cuts is no error.
        yield codecs.getincrementaldecoder("utf-8")().decode(content, final=len(content) < _MOST_BYTES)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{file} is not UTF-8 (byte {error.start}), expected plain text or .jsonl."
        ) from None


def _lines(file: Path, tokenizer: Tokenizer) -> Iterator[str]:
    lines = _read(file).split(b"\n")
    if sum(map(len, lines)) + len(lines) > _MOST_BYTES:
        lines.pop()
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _rendered(line, f"{file}, line {number}", tokenizer)


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES)
    except FileNotFoundError:
        raise UsageError(f"{file} does not exist: name a text or .jsonl file to evaluate on.") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}): name a file to evaluate on.") from None
    if not content.strip():
        raise UsageError(f"{file} is empty: name a text or .jsonl file to evaluate on.")
    return content


def _rendered(line: bytes, place: str, tokenizer: Tokenizer) -> str:
    """The text that one line of JSON stands for."""
    entry = _parsed(line, place)
    text, messages, tools = (entry.get(name) for name in ("text", "messages", "tools"))
    if isinstance(text, str) and messages is None:
        return text
    if text is not None or not _are_objects(messages) or not (tools is None or _are_objects(tools)):
        raise UsageError(
            f'{place} holds {shown(entry)}, expected {{"text": "…"}} or {{"messages": [{{"role": "…", "content": "…"}}, …]}}.'
        )
    try:
        return tokenizer.render(messages, tools, generation_prompt=False)
    except TokenizerError as error:
        raise TokenizerError(f"{place}: {error}") from None


def _parsed(line: bytes, place: str) -> dict[str, Any]:
    try:
        entry = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{place} is not UTF-8 (byte {error.start}): correct the line.") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"{place} is not JSON ({reason}): correct the line.") from None
    if not isinstance(entry, dict):
        raise UsageError(f"{place} holds {shown(entry)}, expected a JSON object.")
    return entry


def _are_objects(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    """Whether the value is a list of objects, at least one."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)
