"""Bytes of a checkpoint as fp32: bf16, fp16, fp32, and FP8 with its block scales."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlx_qnext.errors import CheckpointError
from mlx_qnext.safetensors_header import TensorInfo
from quantize.bfloat16 import from_bfloat16

DTYPES = ("BF16", "F16", "F32")
FP8_DTYPE = "F8_E4M3"
FP8_BLOCK = 128


def read_bytes(path: Path, tensor: TensorInfo, start: int, count: int) -> NDArray[np.uint8]:
    """`count` bytes of a tensor from its byte `start` on, from `path`, where its file lies now.

    Raises:
        CheckpointError: the file cannot be read, or ends before.
    """
    buffer = np.empty(count, np.uint8)
    view, filled = buffer.data, 0
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            while filled < count:
                got = os.preadv(descriptor, [view[filled:]], tensor.start + start + filled)
                if not got:
                    raise CheckpointError(f"{path} changed while it was read: start again.")
                filled += got
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): check the disk.") from None
    return buffer


def to_fp32(content: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    """The values, exactly; flat."""
    return _DECODERS[dtype](content)


def _bf16(content: NDArray[np.uint8]) -> NDArray[np.float32]:
    return from_bfloat16(content.view(np.uint16))


def _fp16(content: NDArray[np.uint8]) -> NDArray[np.float32]:
    return content.view(np.float16).astype(np.float32)


def _fp32(content: NDArray[np.uint8]) -> NDArray[np.float32]:
    return content.view(np.float32)


def _e4m3(content: NDArray[np.uint8]) -> NDArray[np.float32]:
    return _E4M3[content]


def _e4m3_table() -> NDArray[np.float32]:
    """The value of every byte: sign, 4 bits of exponent with bias 7, 3 of mantissa; the last code of each sign is NaN, none
    is infinite (Micikevicius et al. 2022, "FP8 formats for deep learning", E4M3)."""
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    normal = np.ldexp(1 + mantissa / 8, exponent - 7)
    subnormal = np.ldexp(mantissa / 8, -6)
    values = np.where(exponent > 0, normal, subnormal) * np.where(codes & 128, -1.0, 1.0)
    return np.where(codes & 127 == 127, np.nan, values).astype(np.float32)


_E4M3 = _e4m3_table()
_DECODERS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.float32]]] = {
    "BF16": _bf16,
    "F16": _fp16,
    "F32": _fp32,
    FP8_DTYPE: _e4m3,
}


def block_scales(scale: NDArray[np.float32], first_row: int, rows: int, columns: int) -> NDArray[np.float32]:
    """What each of the rows [first_row, first_row + rows) of an FP8 matrix is multiplied by, [rows, columns].

    Args:
        scale: one for each block of 128 × 128, [⌈out / 128⌉, ⌈in / 128⌉].
    """
    of_rows = scale[np.arange(first_row, first_row + rows) // FP8_BLOCK]
    return np.repeat(of_rows, FP8_BLOCK, axis=1)[:, :columns]


def scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an FP8 matrix's block scales."""
    return tuple(-(-size // FP8_BLOCK) for size in shape)
