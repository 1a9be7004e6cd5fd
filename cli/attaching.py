"""Text files that a question is about: read, checked, and measured against what is left of the context."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from cli.conversation import Attachment, block
from cli.terminal import visible
from cli.texts import decoded
from mlx_qnext.errors import ContextLengthError, UsageError

# The longest token of Qwen's vocabulary has so many bytes: what is larger than all tokens can be need not be read.
_MOST_BYTES_A_TOKEN = 128


def attachment(file: Path, count: Callable[[str], int], room_tokens: int) -> Attachment:
    """The file as a question holds it; `count` says how many tokens a text has.

    Raises:
        UsageError: it cannot be read, or is no text. ContextLengthError: there is no room for it.
    """
    # A pipe might never end, and nobody could type meanwhile.
    if _is_there(file) and not file.is_file() and not file.is_dir():
        raise UsageError(f"{visible(str(file))} is a pipe or a device: name a text file.")
    text = read_text(file, most_bytes=room_tokens * _MOST_BYTES_A_TOKEN)
    tokens = count(block(file.name, text))
    if tokens > room_tokens:
        raise ContextLengthError(
            f"{file.name} has {tokens:,} tokens and the context has room for {room_tokens:,}: attach a part of it, begin "
            "another conversation with /clear, or start with a longer --context."
        )
    return Attachment(file, text, tokens)


def read_text(file: Path, most_bytes: int) -> str:
    """All of a file, without its byte order mark.

    Raises:
        UsageError: it cannot be read, or is no UTF-8 text. ContextLengthError: it is larger than `most_bytes`.
    """
    name = visible(file.name)
    try:
        size, content = _read(file, most_bytes)
    except OSError as error:
        raise UsageError(
            f"{visible(str(file))} cannot be read ({error.strerror}): name a text file."
        ) from None
    except ValueError:
        raise UsageError(f"{visible(str(file))} is no name of a file: name a text file.") from None
    if size > most_bytes:
        raise ContextLengthError(
            f"{name} has {size / 1e6:,.1f} MB, more than what is left of the context can hold: attach a part of it."
        )
    text = decoded(content, name)
    if not text.strip():
        raise UsageError(f"{name} is empty: there is nothing to attach.")
    return text


def _read(file: Path, most_bytes: int) -> tuple[int, bytes]:
    """How large it is, and all of it if that is no more than this; pipes and devices are as large as what was read."""
    size = file.stat().st_size
    if size > most_bytes:
        return size, b""
    with file.open("rb") as opened:
        content = opened.read(most_bytes + 1)
    return len(content), content


def named_file(path: str) -> Path:
    """The file of this name, in somebody's home where it says so and there is one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def meant_file(path: str) -> Path:
    """The file that is meant, from the root; terminals quote the spaces in a name that is dropped on them."""
    file = _found(path)
    try:
        return file.absolute()
    except OSError:
        # The folder that it lies in is gone.
        return file


def _found(path: str) -> Path:
    file = named_file(path)
    if _is_there(file):
        return file
    try:
        words = shlex.split(path)
    except ValueError:
        return file
    return named_file(words[0]) if len(words) == 1 else file


def _is_there(file: Path) -> bool:
    """Whatever it is; a name that is too long names nothing."""
    try:
        return file.exists()
    except OSError:
        return False
