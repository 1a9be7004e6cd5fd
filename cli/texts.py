"""Bytes that should be text."""

from __future__ import annotations

import codecs

from mlx_qnext.errors import UsageError

# No context of these models holds more, whatever the text: what is longer need not be read to its end, if it has one.
MOST_BYTES = 1 << 28

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decoded(content: bytes, name: str) -> str:
    """The text, without its byte order mark; `name` is what people know it by.

    Raises:
        UsageError: it is no UTF-8 text.
    """
    if content.startswith(_UTF_16):
        raise UsageError(
            f"{name} is UTF-16, expected UTF-8: convert it, for example with iconv -f UTF-16 -t UTF-8."
        )
    if b"\0" in content:
        raise UsageError(f"{name} is not text (byte {content.index(0)} is zero): give it a text instead.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name} is not UTF-8 text (byte {error.start}): convert it, for example with iconv."
        ) from None
