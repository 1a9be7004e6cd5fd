"""Text files that a question is about: read, checked, and measured against what is left of the context."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from cli.conversation import Attachment, block
from mlx_qnext.errors import ContextLengthError, UsageError
from mlx_qnext.json_fields import shown

# The longest token of Qwen's vocabulary has so many bytes: what is larger than all tokens can be need not be read.
_MOST_BYTES_A_TOKEN = 128


def attachment(path: str, count: Callable[[str], int], room_tokens: int) -> Attachment:
    """The file at this path as a question holds it; `count` says how many tokens a text has.

    Raises:
        UsageError: it cannot be read, or is no text. ContextLengthError: there is no room for it.
    """
    file = _found(path)
    text = read_text(file, most_bytes=room_tokens * _MOST_BYTES_A_TOKEN)
    tokens = count(block(file.name, text))
    if tokens > room_tokens:
        raise ContextLengthError(
            f"{file.name} has {tokens:,} tokens and the context has room for {room_tokens:,}: attach a part of it, begin "
            "another conversation with /clear, or start with a longer --context."
        )
    return Attachment(file.name, text, tokens)


def read_text(file: Path, most_bytes: int) -> str:
    """All of a file, without its byte order mark.

    Raises:
        UsageError: it cannot be read, or is no UTF-8 text. ContextLengthError: it is larger than `most_bytes`.
    """
    try:
        size = file.stat().st_size
        if size > most_bytes and file.is_file():
            raise ContextLengthError(
                f"{file.name} has {size / 1e6:,.1f} MB, more than what is left of the context can hold: attach a part of it."
            )
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{shown(str(file))} cannot be read ({error.strerror}): name a text file.") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{file.name} is not UTF-8 text (byte {error.start}): convert it, for example with iconv."
        ) from None
    if "\0" in text:
        raise UsageError(
            f"{file.name} is not text (byte {text.encode().index(0)} is zero): name a text file."
        )
    if not text.strip():
        raise UsageError(f"{file.name} is empty: there is nothing to attach.")
    return text


def _found(path: str) -> Path:
    """The file that is meant; terminals quote the spaces in a name that is dropped on them."""
    file = Path(path).expanduser()
    if file.exists():
        return file
    try:
        words = shlex.split(path)
    except ValueError:
        return file
    return Path(words[0]).expanduser() if len(words) == 1 else file
