"""Stdin as a shell hands it over: a file, for which one can wait."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile

import pytest


@contextmanager
def stdin_of(content: bytes = b"") -> Iterator[None]:
    """Within, stdin holds this and ends."""
    with TemporaryFile("w+", encoding="utf-8") as file, pytest.MonkeyPatch.context() as patched:
        file.buffer.write(content)
        file.seek(0)
        patched.setattr(sys, "stdin", file)
        yield
