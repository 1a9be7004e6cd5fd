"""The results of a batch: appended as whole lines, so that a file that was cut off at any moment can be gone on with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import typer

from cli.batch_input import Entry, Id
from mlx_qnext.disk import flush, flush_folder, lock, write_at, writing
from mlx_qnext.errors import UsageError
from mlx_qnext.json_fields import shown

FLUSH_EVERY_S = 1.0
_BEGINNING = b'{"id": '


@dataclass(frozen=True)
class Done:
    """What a file of results holds.

    Attributes:
        answered: ids of answers, and digests of what they answer, where those are known. failed: lines and ids of errors.
    """

    answered: dict[Id, str | None] = field(default_factory=dict)
    failed: set[tuple[int, Id | None]] = field(default_factory=set)

    def holds(self, entry: Entry) -> bool:
        """Whether this line has its record."""
        if (entry.line, entry.id) in self.failed:
            return True
        # The id of a line that repeats it is another one's.
        return not isinstance(entry.asked, str) and entry.id in self.answered


def check_same_batch(done: Done, asked: Sequence[Entry], path: Path) -> int:
    """Return how many answers in the file are of no line that is asked.

    Raises:
        UsageError: an answer is one to something else than the line with its id asks now.
    """
    ids = {entry.id for entry in asked}
    for entry in asked:
        if entry.digest is not None and entry.id is not None:
            answered = done.answered.get(entry.id)
            if answered not in (None, entry.digest):
                raise UsageError(
                    f"{path} answers another request with the id {shown(entry.id)} than line {entry.line} is now: name a new "
                    "file, or the input as it was."
                )
    return sum(own not in ids for own in done.answered)


class Results(Protocol):
    """Where records go."""

    done: Done

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one, whole."""


class Printed:
    """Records on stdout."""

    def __init__(self) -> None:
        self.done = Done()

    def write(self, record: Mapping[str, Any]) -> None:
        """Print one line, at once."""
        typer.echo(json.dumps(record, ensure_ascii=False))


class ResultFile:
    """Records in a file that this program has to itself; a loss of power takes those at most that were written within a second
    after the last flush."""

    def __init__(self, path: Path, descriptor: int, clock: Callable[[], float] = monotonic) -> None:
        self._path, self._descriptor, self._clock = path, descriptor, clock
        self.done, self._end = _read(path, descriptor)
        os.ftruncate(descriptor, self._end)
        self._flushed = clock()

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one line in one piece.

        Raises:
            OutputError: the disk takes no more; what it took of the line is cut off when the batch is resumed.
        """
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "replace")
        with writing(self._path, "run the same command with --resume"):
            write_at(self._descriptor, line, self._end)
            self._end += len(line)
            if self._clock() - self._flushed >= FLUSH_EVERY_S:
                self.flush()

    def flush(self) -> None:
        """Everything written survives a loss of power."""
        flush(self._descriptor)
        self._flushed = self._clock()

    def close(self) -> None:
        """The same, and the file's name survives too; without a record it goes."""
        if not self._end:
            self._path.unlink(missing_ok=True)
            return
        self.flush()
        flush_folder(self._path.parent)


@contextmanager
def result_file(path: Path, resume: bool) -> Iterator[ResultFile]:
    """The file to append to: a new one, or with `resume` the one that is there, whose last line, if it was cut off, is gone.

    Where nothing was written to it in the end, there is no file.

    Raises:
        UsageError: it is there and not to be resumed, is in use, or holds something else. OutputError: it cannot be written.
    """
    with writing(path):
        descriptor = _open(path, resume)
    try:
        if not lock(descriptor):
            raise UsageError(f"{path} is in use by another qnext: wait until it ends, or name another file.")
        file = ResultFile(path, descriptor)
        try:
            yield file
        finally:
            with writing(path):
                file.close()
    finally:
        os.close(descriptor)


def _open(path: Path, resume: bool) -> int:
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a file: name one, or - for stdout.")
    flags = os.O_RDWR | os.O_CREAT | (0 if resume else os.O_EXCL)
    try:
        return os.open(path, flags, 0o666)
    except FileExistsError:
        raise UsageError(
            f"{path} exists: name a new file, or add --resume to answer what it has no results of."
        ) from None


def _read(path: Path, descriptor: int) -> tuple[Done, int]:
    """What the whole lines of the file hold, and where they end."""
    done, end = Done(), 0
    with os.fdopen(os.dup(descriptor), "rb") as file:
        for number, line in enumerate(file, 1):
            whole = line.endswith(b"\n")
            if not (_took(line, done) if whole else _begins_record(line)):
                raise UsageError(f"Line {number} of {path} is no result of a batch: name another file.")
            end += len(line) if whole else 0
    return done, end


def _begins_record(line: bytes) -> bool:
    """Whether a last line may be a record that was cut off; after a loss of power zeros may follow."""
    written = line.rstrip(b"\0")
    if not written.startswith(_BEGINNING[: len(written)]):
        return False
    try:
        json.loads(written)
    except (ValueError, RecursionError):
        return True
    # Nothing lacks but the end of the line, so what it is can be told.
    return _took(written, Done())


def _took(line: bytes, done: Done) -> bool:
    """Whether it is a record, which then is among those done."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    match record:
        case {"line": int(number), "id": (str() | int() | None) as own, "error": str()}:
            done.failed.add((number, own))
        case {"id": (str() | int()) as own, "finish_reason": str()}:
            digest = record.get("asked")
            done.answered[own] = digest if isinstance(digest, str) else None
        case _:
            return False
    return True
