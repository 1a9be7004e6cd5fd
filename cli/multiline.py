"""When what is typed goes on with another line, and what is meant by it then: the same in an editor and line by line."""

from __future__ import annotations

_QUOTES = '"""'
_CONTINUES = "\\"


def begun_line(text: str) -> str | None:
    """The text with another line begun, where it goes on after Enter; `None` where it is complete.

    It goes on until three double quotes end it, if it begins with them, and otherwise behind a backslash, which is dropped. Two
    backslashes are a text that ends in them.
    """
    if _quoted(text):
        return None if _is_closed(text) else f"{text}\n"
    before = text.rstrip(_CONTINUES)
    return f"{text.removesuffix(_CONTINUES)}\n" if (len(text) - len(before)) % 2 else None


def meant(text: str) -> str:
    """A complete text without the quotes around it."""
    return text.strip().removeprefix(_QUOTES).removesuffix(_QUOTES) if _quoted(text) else text


def _quoted(text: str) -> bool:
    """Whether its first line opens quotes that it does not close before other lines, as pasted code may."""
    first, *others = text.strip().split("\n")
    return first.startswith(_QUOTES) and not (others and _is_closed(first))


def _is_closed(text: str) -> bool:
    return text.strip().removeprefix(_QUOTES).endswith(_QUOTES)
