"""A session's folder, held by one process at a time; the system lets go of it when that process ends in whatever way."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlx_qnext.disk import lock
from mlx_qnext.errors import SessionError

OWNER_FILE = "pid"


@dataclass(frozen=True)
class Hold:
    """A folder that is this program's alone until `release`."""

    folder: Path
    descriptor: int

    def release(self, *, remove_empty: bool = False) -> None:
        """Others may have it; with `remove_empty`, it is not there any more if nothing is in it."""
        with suppress(OSError):
            (self.folder / OWNER_FILE).unlink()
        if remove_empty:
            with suppress(OSError):
                self.folder.rmdir()
        os.close(self.descriptor)


class InUseError(SessionError):
    """Another process has the session, or this one does."""


def hold(folder: Path) -> Hold:
    """The folder, held.

    Raises:
        InUseError: it is in use. SessionError: it is gone, or cannot be opened.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise missing(folder.name) from None
    except OSError as error:
        raise _unusable(folder, error) from None
    try:
        if not lock(descriptor):
            raise InUseError(
                f"The session {folder.name} is in use{_by(folder)}: end that one, or use another."
            )
        # Between opening and locking, the one who held it may have deleted it.
        if not folder.exists() or not os.path.samestat(os.fstat(descriptor), folder.stat()):
            raise missing(folder.name)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError):
            raise _unusable(folder, error) from None
        raise
    # For the sentence that another process says. A folder that cannot be written can still be read.
    with suppress(OSError):
        (folder / OWNER_FILE).write_text(str(os.getpid()))
    return Hold(folder, descriptor)


def missing(name: str) -> SessionError:
    """There is none of this name."""
    return SessionError(f"There is no session {name}: list those there are with qnext sessions.")


def _by(folder: Path) -> str:
    try:
        owner = int((folder / OWNER_FILE).read_text())
    except (OSError, ValueError):
        return " by another qnext"
    return " already" if owner == os.getpid() else f" by another qnext, process {owner}"


def _unusable(folder: Path, error: OSError) -> SessionError:
    return SessionError(
        f"The session {folder.name} cannot be opened ({error.strerror}): check {folder}, or use another session."
    )
