"""Text that another program or a file hands over on stdin."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

from cli.texts import MOST_BYTES, decoded
from mlx_qnext.errors import ContextLengthError, UsageError

_NAME = "The text on stdin"
_PATIENCE_S = 3


def piped_text(on_waiting: Callable[[], None] | None = None) -> str:
    """All of stdin; `on_waiting` is called where nothing has come after some seconds.

    Raises:
        UsageError: it is closed, or no UTF-8 text. ContextLengthError: it is larger than any context.
    """
    stdin = _stdin()
    if on_waiting is not None and not _has_begun(stdin):
        on_waiting()
    return _text(stdin.read(MOST_BYTES + 1))


def piped_lines() -> Iterator[str]:
    """Stdin line by line, each as soon as it is there.

    Raises:
        UsageError: it is closed, or a line is no UTF-8 text. ContextLengthError: a line is larger than any context.
    """
    stdin = _stdin()
    while line := stdin.readline(MOST_BYTES + 1):
        yield _text(line)


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise UsageError("There is no prompt and stdin is closed: write a prompt, or pipe one in.")
    return sys.stdin.buffer


def _has_begun(stdin: BinaryIO) -> bool:
    """Whether there is something to read, or the end, before patience is."""
    return bool(select.select([stdin], [], [], _PATIENCE_S)[0])


def _text(content: bytes) -> str:
    if len(content) > MOST_BYTES:
        raise ContextLengthError(
            f"{_NAME} is larger than {MOST_BYTES / 1e6:,.0f} MB, which no context holds: pipe in a part of it."
        )
    return decoded(content, _NAME)
