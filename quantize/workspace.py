"""The folder of an unfinished conversion: beside the destination, locked while in use, and with a journal of what is done.

DEST.incomplete/
    journal.jsonl      which plan this is, then one line for each piece that is in the result
    result/            what DEST will be; renamed at the end, in one step
    shards/            what was fetched from the hub and not converted yet
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlx_qnext.errors import OutputError, UsageError
from quantize.disk import allocated_bytes, replacing, writing
from quantize.loss import Loss
from quantize.output_files import OutputFile

SUFFIX = ".incomplete"
JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Workspace:
    """The unfinished conversion into `dest`."""

    dest: Path

    @property
    def folder(self) -> Path:
        """All of it."""
        return self.dest.with_name(self.dest.name + SUFFIX)

    @property
    def result(self) -> Path:
        """What will be the destination."""
        return self.folder / "result"

    @property
    def shards(self) -> Path:
        """Files of the source that are here for a while."""
        return self.folder / "shards"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The folder exists and no other process works in it; it goes again where nothing was begun in it.

        Raises:
            UsageError: another process does, or the destination holds something. OutputError: it cannot be made.
        """
        self._check_dest()
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            _lock(descriptor, self.folder)
            try:
                yield
            finally:
                self._remove_unbegun()
        finally:
            os.close(descriptor)

    def check_room(self, source_bytes: int, files: Iterable[OutputFile]) -> None:
        """Returns where the disk holds what is still to be written.

        Args:
            source_bytes: what files of the source take at once, beside the result.

        Raises:
            OutputError: it does not.
        """
        source_bytes = max(source_bytes - sum(map(allocated_bytes, self.shards.glob("*.safetensors*"))), 0)
        missing = sum(max(file.nbytes - allocated_bytes(self.result / file.name), 0) for file in files)
        free_bytes = shutil.disk_usage(self.folder).free
        if missing + source_bytes > free_bytes:
            raise OutputError(
                f"{self.dest} needs {(missing + source_bytes) / 1e9:.1f} GB more, and {free_bytes / 1e9:.1f} GB are free: free "
                "some space, or name a folder on a larger disk."
            )

    def begin(self, fingerprint: str) -> dict[int, Loss]:
        """The pieces that are done already, by number; none for a conversion that begins now.

        Raises:
            UsageError: what lies here is another conversion's, or nobody's.
        """
        journal = self.folder / JOURNAL
        if not journal.exists():
            if self.result.exists():
                raise UsageError(
                    f"{self.folder} is no unfinished conversion: remove it, or name another destination."
                )
            with replacing(journal) as fresh:
                fresh.write_text(json.dumps({"plan": fingerprint}) + "\n", encoding="utf-8")
        with journal.open("rb") as file:
            lines = [line for line in file if line.endswith(b"\n")]
        if not lines or _parsed(lines[0]) != {"plan": fingerprint}:
            raise UsageError(
                f"{self.folder} is an unfinished conversion of another source or recipe: remove it, or name another "
                "destination."
            )
        _cut(journal, sum(map(len, lines)))
        self.result.mkdir(exist_ok=True)
        return {number: Loss(error, total) for number, error, total in map(json.loads, lines[1:])}

    def record(self, done: Iterable[tuple[int, Loss]]) -> None:
        """These pieces are in the result, whatever happens next."""
        lines = "".join(json.dumps([n, loss.squared_error, loss.squared_sum]) + "\n" for n, loss in done)
        with (self.folder / JOURNAL).open("ab") as file:
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        """The result is the destination, and nothing else is left.

        Raises:
            OutputError: the destination cannot be made.
        """
        with writing(self.dest):
            self.result.rename(self.dest)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _check_dest(self) -> None:
        if self.dest.is_dir() and not any(self.dest.iterdir()):
            return
        if self.dest.exists() or self.dest.is_symlink():
            raise UsageError(
                f"{self.dest} exists and is not an empty folder: name a new one, or remove it first."
            )

    def _remove_unbegun(self) -> None:
        if self.folder.exists() and not (self.folder / JOURNAL).exists() and not self.result.exists():
            shutil.rmtree(self.folder, ignore_errors=True)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"{folder} is in use by another qnext: wait until it ends.") from None


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _cut(journal: Path, nbytes: int) -> None:
    """A line that was half-written when the program was killed goes."""
    if journal.stat().st_size != nbytes:
        os.truncate(journal, nbytes)
