"""Arrays whose memory is taken as it is written to, and that are written in place from outside MLX.

MLX allocates an array it loads before it reads a byte into it. From a file whose bytes never come it loads an array that
nothing has touched: the operating system commits its pages when experts are read into them. On every back end of MLX's the
processor can write where an array lies; whether MLX then sees what was written is probed before it is relied on.
"""

from __future__ import annotations

import io
import json
from typing import Any, cast

import mlx.core as mx
import numpy as np

_RAW = {2: (mx.uint16, "U16"), 4: (mx.uint32, "U32")}


class SlotArray:
    """One array `[slots, rows, columns]`, each slot of which is written on its own.

    Attributes:
        array: as MLX computes with it. Its elements are undefined where nothing has been written.
    """

    def __init__(self, slots: int, rows: int, columns: int, dtype: mx.Dtype, *, in_place: bool) -> None:
        raw = _untouched((slots, rows, columns), dtype.size)
        self.array = raw.view(dtype)
        mx.eval(self.array)
        self._raw_dtype, self._dtype, self._shape = raw.dtype, dtype, (rows, columns)
        self._row_bytes = columns * dtype.size
        self._memory = _bytes_of(raw).reshape(slots, rows * self._row_bytes) if in_place else None
        self._staged: dict[int, np.ndarray] = {}

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return self._shape[0] * self._row_bytes

    def place(self, slot: int, first_row: int, rows: int) -> np.ndarray:
        """The bytes of some rows of a slot, to be overwritten. `land` makes MLX see them where it would not by itself."""
        if self._memory is not None:
            whole = self._memory[slot]
        else:
            whole = self._staged.setdefault(slot, np.empty(self.slot_bytes, np.uint8))
        return whole[first_row * self._row_bytes : (first_row + rows) * self._row_bytes]

    def land(self, slot: int) -> None:
        """Put a slot that has been overwritten in its place; to be called by the thread that computes."""
        if self._memory is None:
            values = mx.array(self._staged.pop(slot)).view(self._dtype).reshape(self._shape)
            self.array[slot] = values
            mx.eval(self.array)

    def copy(self, slots: np.ndarray, other: SlotArray, sources: np.ndarray) -> None:
        """Make these slots what the `sources` of another array of the same rows and columns are."""
        if self._memory is not None and other._memory is not None:
            for slot, source in zip(slots, sources, strict=True):
                self._memory[slot] = other._memory[source]
        else:
            self.array[mx.array(slots)] = other.array[mx.array(sources)]
            mx.eval(self.array)


def writes_are_seen() -> bool:
    """Whether MLX computes with what is written into an array's memory, before and after it has computed with it."""
    probe = SlotArray(2, 1, 8, mx.uint32, in_place=True)
    for value in (1, 2):
        probe.place(1, 0, 1).view(np.uint32)[:] = np.arange(8) + value
        if (probe.array[1] + 0).tolist() != [list(range(value, 8 + value))]:
            return False
    return True


def _bytes_of(array: mx.array) -> np.ndarray:
    """The array's own memory."""
    return np.asarray(memoryview(cast(Any, array))).view(np.uint8)


def _untouched(shape: tuple[int, ...], itemsize: int) -> mx.array:
    """An array of unsigned integers to which no memory has been committed."""
    dtype, name = _RAW[itemsize]
    size = itemsize * int(np.prod(shape, dtype=np.int64))
    header = {"array": {"dtype": name, "shape": shape, "data_offsets": [0, size]}}
    loaded = cast("dict[str, mx.array]", mx.load(cast(Any, _Hollow(header, size)), format="safetensors"))
    array = loaded["array"]
    assert array.dtype == dtype
    mx.eval(array)
    return array


class _Hollow(io.RawIOBase):
    """A safetensors file that consists of its header: whoever reads beyond it gets nothing, and is told that it came."""

    def __init__(self, header: dict[str, Any], body_bytes: int) -> None:
        text = json.dumps(header).encode()
        self._head = len(text).to_bytes(8, "little") + text
        self._size = len(self._head) + body_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        part = self._head[self._position : self._position + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(buffer)
        return len(buffer)
