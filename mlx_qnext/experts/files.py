"""A checkpoint's weight files, held open while its experts are read: the bytes that were checked, or one sentence why not.

What may happen to a file in the hours that a model is in use, and what follows:

- Another file is renamed over it, or it is deleted: the open descriptor keeps the old bytes, and reading goes on.
- It is written in place, or cut short: the next read says so. It is sound again once size and time of change are.
- Its disk goes away: reads fail until it is back, then a descriptor opened anew goes on, if it is the same file.
"""

from __future__ import annotations

import errno
import os
import resource
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from threading import Lock

from mlx_qnext.errors import CheckpointError
from mlx_qnext.safetensors_header import LENGTH_BYTES, header_length

# What one call takes: IOV_MAX is 1,024 on Linux and macOS, and macOS refuses more than INT_MAX bytes.
_MAX_BUFFERS = 1024
_MAX_CALL_BYTES = 1 << 30

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.ESTALE)
_FORBIDDEN = (errno.EACCES, errno.EPERM)


class WeightFiles:
    """Safetensors files, each opened once; ranges of them are read from any number of threads.

    Raises:
        CheckpointError: a file is missing, may not be read, is no safetensors file, or too many files are open.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._lock = Lock()
        self._identities: dict[Path, _Identity] = {}
        self._descriptors: dict[Path, _Descriptor] = {}
        try:
            for path in dict.fromkeys(paths):
                number, self._identities[path] = _open(path)
                self._descriptors[path] = _Descriptor(number)
        except CheckpointError:
            self.close()
            raise

    def read(self, path: Path, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill all `buffers` in order with the bytes of the file from `offset` on; returns how many these are.

        After an error the buffers hold anything, and the same read may be tried again: it works once the file is
        back as it was.

        Args:
            path: one of those opened.
            buffers: flat, of bytes, writable.

        Raises:
            CheckpointError: the file changed, ended before, or could not be read, even opened anew; or all are closed.
        """
        with suppress(OSError):
            return self._read(path, offset, buffers)
        self._reopen(path)
        try:
            return self._read(path, offset, buffers)
        except OSError as error:
            raise _unreadable(path, error) from None

    def close(self) -> None:
        """Nothing can be read any more; reads under way end well. More than once is the same as once."""
        with self._lock:
            for descriptor in self._descriptors.values():
                descriptor.release()
            self._descriptors.clear()

    def _read(self, path: Path, offset: int, buffers: Sequence[memoryview]) -> int:
        """As `read`, without a second try.

        Raises:
            OSError: a read fails.
        """
        with self._lent(path) as number:
            count = _fill(number, offset, buffers)
            # Afterwards: the change may come while the bytes are read.
            _check_unchanged(path, self._identities[path], os.fstat(number))
        wanted = sum(len(view) for view in buffers)
        if count < wanted:
            raise CheckpointError(
                f"{path} gave {count} bytes at {offset}, expected {wanted}: check the disk."
            )
        return count

    def _reopen(self, path: Path) -> None:
        """Later reads of the path use a new descriptor of the same file."""
        number, identity = _open(path)
        spare = _Descriptor(number)
        same = identity == self._identities[path]
        with self._lock:
            if same and path in self._descriptors:
                spare, self._descriptors[path] = self._descriptors[path], spare
            spare.release()
        if not same:
            raise CheckpointError(f"{path} is another file than the one in use: load the model again.")

    @contextmanager
    def _lent(self, path: Path) -> Iterator[int]:
        """The number of the path's descriptor, which stays open meanwhile."""
        with self._lock:
            if not self._descriptors:
                raise CheckpointError(f"{path} is closed with its model: load the model again.")
            descriptor = self._descriptors[path]
            descriptor.holders += 1
        try:
            yield descriptor.number
        finally:
            with self._lock:
                descriptor.release()


@dataclass(frozen=True)
class _Identity:
    """What tells a file from one that took its place. Device and inode do not: both may change with a new mount."""

    size_bytes: int
    changed_ns: int
    header_digest: bytes


@dataclass
class _Descriptor:
    """An open file's number. A number closed under a thread that reads may already name another file: the last holder
    closes it."""

    number: int
    holders: int = 1

    def release(self) -> None:
        """One holder less. Only under the lock."""
        self.holders -= 1
        if not self.holders:
            # Of a disk that is gone, even this may fail.
            with suppress(OSError):
                os.close(self.number)


def _open(path: Path) -> tuple[int, _Identity]:
    try:
        number = os.open(path, os.O_RDONLY)
        try:
            return number, _identify(path, number)
        except BaseException:
            os.close(number)
            raise
    except OSError as error:
        raise _unreadable(path, error) from None


def _identify(path: Path, number: int) -> _Identity:
    status = os.fstat(number)
    length = bytearray(LENGTH_BYTES)
    _fill(number, 0, [memoryview(length)])
    header = bytearray(header_length(bytes(length), path, status.st_size))
    _fill(number, LENGTH_BYTES, [memoryview(header)])
    return _Identity(status.st_size, status.st_mtime_ns, blake2b(length + header).digest())


def _check_unchanged(path: Path, identity: _Identity, status: os.stat_result) -> None:
    if status.st_size < identity.size_bytes:
        raise CheckpointError(
            f"{path} is cut short: {status.st_size} bytes, expected {identity.size_bytes}: download the model again."
        )
    if (status.st_size, status.st_mtime_ns) != (identity.size_bytes, identity.changed_ns):
        raise CheckpointError(f"{path} was written to while it is in use: load the model again.")


def _fill(number: int, offset: int, buffers: Iterable[memoryview]) -> int:
    """Bytes read into the buffers: all that they take, or fewer where the file ends.

    Raises:
        OSError: a read fails.
    """
    pending = deque(view for view in buffers if len(view))
    count = 0
    while pending:
        got = os.preadv(number, _batch(pending), offset + count)
        if not got:
            break
        count += got
        _drop(pending, got)
    return count


def _batch(pending: deque[memoryview]) -> list[memoryview]:
    """As much of the front as one call takes."""
    batch: list[memoryview] = []
    room = _MAX_CALL_BYTES
    for view in islice(pending, _MAX_BUFFERS):
        batch.append(view[:room])
        room -= len(batch[-1])
    return batch


def _drop(pending: deque[memoryview], count: int) -> None:
    """Take the first `count` bytes off the front."""
    while count:
        view = pending.popleft()
        if len(view) > count:
            pending.appendleft(view[count:])
        count -= min(count, len(view))


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    if error.errno in _GONE:
        return CheckpointError(
            f"{path} is not there any more: connect its disk again, or download the model again."
        )
    if error.errno in _FORBIDDEN:
        return CheckpointError(f"{path} cannot be read ({error.strerror}): check its permissions.")
    if error.errno == errno.EMFILE:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return CheckpointError(
            f"{path} cannot be opened beside {limit} open files: raise the limit with ulimit -n."
        )
    return CheckpointError(f"{path} cannot be read ({error.strerror}): check the disk.")
