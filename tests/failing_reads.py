"""A weight file, the descriptors that are held of it, and reads of it that fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_qnext.experts.files import WeightFiles

DATA_BYTES = 4000
Preadv = Callable[[int, Sequence[memoryview], int], int]
Open = Callable[..., int]
PREADV: Preadv = os.preadv
OPEN: Open = os.open


def write_weights(path: Path, seed: int = 0) -> Path:
    data = np.random.default_rng(seed).integers(0, 256, DATA_BYTES, np.uint8)
    mx.save_safetensors(str(path), {"experts": mx.array(data)})
    return path


def read(files: WeightFiles, path: Path, offset: int = 100, sizes: Sequence[int] = (1000, 0, 24)) -> bytes:
    buffers = [bytearray(size) for size in sizes]
    assert files.read(path, offset, [memoryview(buffer) for buffer in buffers]) == sum(sizes)
    return b"".join(buffers)


def open_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def failing(code: int, times: int = 1_000_000) -> Preadv:
    """Reads that fail so many times and are real afterwards."""
    left = iter(range(times))

    def preadv(number: int, buffers: Sequence[memoryview], offset: int) -> int:
        if next(left, None) is None:
            return PREADV(number, buffers, offset)
        raise OSError(code, os.strerror(code))

    return preadv


def failing_on(numbers: set[int]) -> Preadv:
    """Reads that fail on descriptors of a disk that went away."""

    def preadv(number: int, buffers: Sequence[memoryview], offset: int) -> int:
        if number in numbers:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return PREADV(number, buffers, offset)

    return preadv


def numbers_of(path: Path) -> set[int]:
    """The descriptors that this process holds of a file."""
    status = path.stat()
    held: set[int] = set()
    for entry in Path("/dev/fd").iterdir():
        with suppress(OSError):  # The folder's own descriptor is closed by now.
            other = os.fstat(int(entry.name))
            if (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino):
                held.add(int(entry.name))
    return held


def refusing(code: int) -> Open:
    def refused(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    return refused
