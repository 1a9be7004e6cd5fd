"""Text that another program or a file hands over on stdin."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import BinaryIO

from mlx_qnext.errors import UsageError


def piped_text() -> str:
    """All of stdin.

    Raises:
        UsageError: it is closed, or not UTF-8.
    """
    return _decoded(_stdin().read())


def piped_lines() -> Iterator[str]:
    """Stdin line by line, each as soon as it is there.

    Raises:
        UsageError: it is closed, or a line is not UTF-8.
    """
    for line in _stdin():
        yield _decoded(line)


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise UsageError("There is no prompt and stdin is closed: write a prompt, or pipe one in.")
    return sys.stdin.buffer


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"The text on stdin is not UTF-8 (byte {error.start}): convert it, for example with iconv."
        ) from None
