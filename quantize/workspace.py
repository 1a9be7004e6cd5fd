"""The folder of an unfinished conversion: beside the destination, locked while in use, and with a journal of what is done.

DEST.incomplete/
    journal.jsonl      which plan this is, then one line for each piece that is in the result
    result/            what DEST will be; renamed at the end, in one step
    shards/            what was fetched from the hub and not converted yet
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlx_qnext.disk import NEW_SUFFIX, allocated_bytes, lock, replacing, writing
from mlx_qnext.errors import OutputError, UsageError
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
            UsageError: another process does, the destination holds something, or the folder holds what is not ours.
            OutputError: it cannot be made.
        """
        self._check_dest()
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._check_folder()
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

    def begin(self, fingerprint: str, files: Iterable[OutputFile]) -> dict[int, Loss]:
        """The pieces that are in the result's `files` already, by number; none for a conversion that begins now.

        Raises:
            UsageError: what lies here is another conversion's, nobody's, or damaged.
        """
        journal = self.folder / JOURNAL
        if not journal.exists():
            if self.result.exists():
                raise self._unusable("is no unfinished conversion")
            with replacing(journal) as fresh:
                fresh.write_text(json.dumps({"plan": fingerprint}) + "\n", encoding="utf-8")
        with journal.open("rb") as file:
            first, *lines = [line for line in file if line.endswith(b"\n")] or [b""]
        if _parsed(first) != {"plan": fingerprint}:
            raise self._unusable("is an unfinished conversion of another source or recipe")
        done = dict(map(_piece, lines))
        if None in done or (done and not all(self._is_laid_out(file) for file in files)):
            raise self._unusable("is an unfinished conversion that was damaged")
        _cut(journal, sum(map(len, (first, *lines))))
        self.result.mkdir(exist_ok=True)
        return {number: loss for number, loss in done.items() if number is not None}

    def _is_laid_out(self, file: OutputFile) -> bool:
        path = self.result / file.name
        return path.is_file() and path.stat().st_size == file.nbytes

    def _unusable(self, what: str) -> UsageError:
        return UsageError(f"{self.folder} {what}: remove it, or name another destination.")

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
        self._remove()

    def _check_dest(self) -> None:
        if self.dest.is_dir() and not any(self.dest.iterdir()):
            return
        if self.dest.exists() or self.dest.is_symlink():
            raise UsageError(
                f"{self.dest} exists and is not an empty folder: name a new one, or remove it first."
            )

    def _check_folder(self) -> None:
        ours = {JOURNAL, self.result.name, self.shards.name}
        names = {path.name for path in self.folder.iterdir()} - ours
        if not all(name.startswith(f"{JOURNAL}.") and name.endswith(NEW_SUFFIX) for name in names):
            raise self._unusable("is no unfinished conversion")

    def _remove_unbegun(self) -> None:
        if self.folder.exists() and not (self.folder / JOURNAL).exists() and not self.result.exists():
            self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _lock(descriptor: int, folder: Path) -> None:
    if not lock(descriptor):
        raise UsageError(f"{folder} is in use by another qnext: wait until it ends.")


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _piece(line: bytes) -> tuple[int | None, Loss]:
    """A piece's number and loss; no number for a line that is none of ours."""
    match _parsed(line):
        case [int() as number, float() as error, float() as total]:
            return number, Loss(error, total)
        case _:
            return None, Loss()


def _cut(journal: Path, nbytes: int) -> None:
    """A line that was half-written when the program was killed goes."""
    if journal.stat().st_size != nbytes:
        os.truncate(journal, nbytes)
