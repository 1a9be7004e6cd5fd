"""What a session may be called: its name is a folder's, on any file system that the folder is ever copied to."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path

from mlx_qnext.errors import UsageError
from mlx_qnext.json_fields import shown

MAX_NAME_BYTES = 100

_PUNCTUATION = "-_. "
# Letters, the marks that some scripts write them with, and digits.
_CATEGORIES = ("L", "M", "N")


def checked_name(name: str) -> str:
    """The name, in the one spelling that Unicode has for it.

    Raises:
        UsageError: a folder cannot be called so, or not on every system.
    """
    name = unicodedata.normalize("NFC", name)
    if not (_is_letter(name[:1]) and all(_is_letter(sign) or sign in _PUNCTUATION for sign in name)):
        raise _refused(name, "letters, digits, spaces and - _ . and begins with a letter or digit")
    if name[-1] in " .":
        raise _refused(name, "letters, digits, spaces and - _ . and ends with neither space nor dot")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise _refused(name, f"at most {MAX_NAME_BYTES} bytes, and this one takes {len(name.encode())}")
    return name


def folder_of(library: Path, name: str) -> Path:
    """Where the session of this name lies or will.

    Names that differ in upper and lower case alone are one, as they are on most Macs; the spelling that was first stays.

    Raises:
        UsageError: as `checked_name`. OSError: the library cannot be read.
    """
    name = checked_name(name)
    if not library.is_dir():
        return library / name
    alike = [path for path in library.iterdir() if _folded(path.name) == _folded(name)]
    return min(alike, key=lambda path: path.name != name, default=library / name)


def automatic_names(now: datetime) -> Iterator[str]:
    """Names made of the time, without end."""
    stamp = now.strftime("%Y-%m-%d-%H%M%S")
    yield stamp
    yield from (f"{stamp}-{number}" for number in count(2))


def _is_letter(sign: str) -> bool:
    return sign != "" and unicodedata.category(sign).startswith(_CATEGORIES)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _refused(name: str, expected: str) -> UsageError:
    return UsageError(f"A session cannot be called {shown(name)}: a name has {expected}.")
