"""Files that are whole or not there, folders that one process has to itself, and what the disk refuses in one sentence."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from mlx_qnext.errors import OutputError

NEW_SUFFIX = ".new"

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_FULL_FLUSH = (errno.ENOTSUP, errno.ENOTTY, errno.EINVAL)


@contextmanager
def writing(path: Path, when_full: str = "run the same command again to go on") -> Iterator[None]:
    """Within, what the disk refuses becomes one sentence about `path`; `when_full` is what to do once there is space.

    Raises:
        OutputError: no space, no permission, or another failure of the disk.
    """
    try:
        yield
    except PermissionError:
        raise OutputError(f"{path} cannot be written: check its folder's permissions.") from None
    except OSError as error:
        if error.errno in _FULL:
            raise OutputError(
                f"The disk is full while {path} is written: free some space, then {when_full}."
            ) from None
        raise OutputError(f"{path} cannot be written ({error.strerror}): name another folder.") from None


@contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[Path]:
    """A file to write beside `path`, which becomes `path` at the end, or nothing; no loss of power leaves a part of it.

    Each has a name of its own, so two programs may replace one file at a time. It ends in `NEW_SUFFIX`, which is what a
    program that was killed leaves. A `private` one is the user's alone.
    """
    fresh = path.with_name(f"{path.name}.{token_hex(4)}{NEW_SUFFIX}")
    try:
        if private:
            os.close(create_private(fresh))
        yield fresh
        with _opened(fresh) as descriptor:
            flush(descriptor)
        fresh.replace(path)
        flush_folder(path.parent)
    finally:
        with suppress(OSError):
            fresh.unlink()


def create_private(path: Path) -> int:
    """The descriptor of a new file to write, which only its owner may read and write, whatever the umask.

    Raises:
        FileExistsError: it is there. OSError: it cannot be made.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def flush(descriptor: int) -> None:
    """What was written survives a loss of power.

    On macOS `fsync` stops at the drive's own cache, from which a loss of power takes what it likes in any order: there
    `F_FULLFSYNC` is what makes a rename come after the bytes. Some file systems do not know it.
    """
    full = getattr(fcntl, "F_FULLFSYNC", None)
    try:
        if full is not None:
            fcntl.fcntl(descriptor, full)
            return
    except OSError as error:
        if error.errno not in _NO_FULL_FLUSH:
            raise
    os.fsync(descriptor)


def flush_folder(folder: Path) -> None:
    """The names in the folder survive a loss of power, where its file system can promise that."""
    with _opened(folder) as descriptor:
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_FULL_FLUSH:
                raise


def write_at(descriptor: int, content: bytes | memoryview, offset: int) -> None:
    """All of `content` is in the file from `offset` on."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def lock(descriptor: int) -> bool:
    """Whether this file or folder is now this program's alone, until the descriptor is closed or the program ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def allocated_bytes(path: Path) -> int:
    """What the file takes on the disk: nothing for a hole, or where there is none."""
    return path.stat().st_blocks * 512 if path.exists() else 0


def on_one_disk(one: Path, other: Path) -> bool:
    """Whether what is put into the one takes room from the other, where they exist or will."""
    return _existing(one).stat().st_dev == _existing(other).stat().st_dev


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
