"""What was typed into chats, in a file: one text a line, as JSON, so that it may have lines of its own."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlx_qnext.disk import replacing
from mlx_qnext.folders import history_file

MOST_TEXTS = 10_000
_MOST_BYTES = 4_000_000
# So that the file is not written anew by each chat once it is full.
_TOO_MANY_TEXTS = MOST_TEXTS * 11 // 10
# A text that takes more is remembered as long as the chat lasts.
_LONGEST = 100_000
_PRIVATE = 0o700


class InputHistory:
    """The texts that were typed last. Several chats may add to them at a time.

    Args:
        adds: what is typed goes into the file; without it that is read and never written.

    Attributes:
        trouble: why they are not remembered any more, a sentence.
    """

    def __init__(self, *, adds: bool = True) -> None:
        self._adds = adds
        self.trouble: str | None = None
        try:
            self._path = history_file().resolve()
        except RuntimeError:
            self.trouble = "What you type is not remembered because you have no home folder: name a file with QNEXT_HISTORY."

    def texts(self) -> list[str]:
        """Those in the file, the last one last. What is damaged in it is left out."""
        if self.trouble is not None:
            return []
        try:
            found, whole = self._read()
            if self._adds and (not whole or len(found) > _TOO_MANY_TEXTS):
                found = self._trimmed()
        except FileNotFoundError:
            return []
        except OSError as error:
            self._give_up(error)
            return []
        return found

    def add(self, text: str) -> None:
        """The file ends with this text, where texts go into it. What the disk refuses is told in `trouble`."""
        if not self._adds or self.trouble is not None or len(text) > _LONGEST:
            return
        line = f"{json.dumps(text, ensure_ascii=False)}\n".encode("utf-8", "replace")
        try:
            folder = self._path.parent
            if not folder.is_dir():
                folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
                folder.chmod(_PRIVATE)
            with _locked(folder):
                _append(self._path, line)
        except OSError as error:
            self._give_up(error)

    def _read(self) -> tuple[list[str], bool]:
        """The last texts of the file, and whether they are all of it."""
        with self._path.open("rb") as file:
            skipped = max(0, os.fstat(file.fileno()).st_size - _MOST_BYTES)
            file.seek(skipped)
            lines = file.read(_MOST_BYTES).split(b"\n")
        # The first of them is the end of one.
        return [text for line in lines[bool(skipped) :] if (text := _text(line)) is not None], not skipped

    def _trimmed(self) -> list[str]:
        """The last texts, which are all of the file now."""
        with _locked(self._path.parent):
            texts = self._read()[0][-MOST_TEXTS:]
            with replacing(self._path, private=True) as fresh:
                lines = (f"{json.dumps(text, ensure_ascii=False)}\n" for text in texts)
                fresh.write_text("".join(lines), encoding="utf-8", errors="replace")
        return texts

    def _give_up(self, error: OSError) -> None:
        self.trouble = (
            f"What you type is not remembered because {self._path} cannot be used ({error.strerror}): name another file with "
            "QNEXT_HISTORY."
        )


def _text(line: bytes) -> str | None:
    if not line.startswith(b'"'):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


def _append(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        # A line that was broken off takes none with it.
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Within, no other chat adds to a file in this folder or replaces it, where its file system knows locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
