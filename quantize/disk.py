"""What the disk says, in one sentence where it refuses."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_qnext.errors import OutputError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within, what the disk refuses becomes one sentence about `path`.

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
                f"The disk is full while {path} is written: free some space, then run the same command again to go on."
            ) from None
        raise OutputError(f"{path} cannot be written ({error.strerror}): name another folder.") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, which becomes `path` at the end, or nothing."""
    fresh = path.with_name(path.name + ".new")
    try:
        yield fresh
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def allocated_bytes(path: Path) -> int:
    """What the file takes on the disk: nothing for a hole, or where there is none."""
    return path.stat().st_blocks * 512 if path.exists() else 0


def on_one_disk(one: Path, other: Path) -> bool:
    """Whether what is put into the one takes room from the other, where they exist or will."""
    return _existing(one).stat().st_dev == _existing(other).stat().st_dev


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
