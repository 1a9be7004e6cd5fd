"""One piece of work: rows are read, converted, and written to their place."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlx_qnext.errors import CheckpointError
from mlx_qnext.json_fields import REMEDY, shown
from mlx_qnext.safetensors_header import TensorInfo
from quantize.affine import quantize_rows
from quantize.bfloat16 import to_bfloat16
from quantize.elements import block_scales, read_bytes, to_fp32
from quantize.layout import Kind
from quantize.loss import Loss
from quantize.output_files import OutputWriter
from quantize.plan import Piece, kept_dtype

ReadScale = Callable[[TensorInfo], NDArray[np.uint8]]
"""Reads the whole of a small tensor, wherever its file is."""


def convert_piece(piece: Piece, path: Path, read_scale: ReadScale, writer: OutputWriter) -> Loss:
    """The rows of `piece` are in the result; what rounding did to them, nothing where they are kept.

    Args:
        path: where the source tensor's file lies now.

    Raises:
        CheckpointError: a weight is NaN or infinite, or the file cannot be read.
    """
    tensor = piece.placement.source
    content = read_bytes(path, tensor, piece.first_row * piece.row_bytes, piece.source_bytes)
    if piece.precision is None:
        rows = _kept(piece, content, _values(piece, content, read_scale))
        _write(writer, piece.target, piece.target_row, rows)
        return Loss()
    # bf16 is widened a block at a time, where it is still in a core's cache.
    plain = content.view(np.uint16).reshape(piece.rows, -1) if tensor.dtype == "BF16" else None
    packed = quantize_rows(_values(piece, content, read_scale) if plain is None else plain, piece.precision)
    _check_finite(piece, isfinite(packed.squared_sum))
    for name, part in (("weight", packed.weight), ("scales", packed.scales), ("biases", packed.biases)):
        _write(writer, f"{piece.target}.{name}", piece.target_row, part)
    return Loss(packed.squared_error, packed.squared_sum)


def _values(piece: Piece, content: NDArray[np.uint8], read_scale: ReadScale) -> NDArray[np.float32]:
    """The rows as what they stand for, [rows, columns]."""
    values = to_fp32(content, piece.placement.source.dtype).reshape(piece.rows, piece.columns)
    if scale := piece.placement.scale:
        scales = to_fp32(read_scale(scale), scale.dtype).reshape(scale.shape)
        values = values * block_scales(scales, piece.first_row, *values.shape)
    return values


def _check_finite(piece: Piece, finite: bool) -> None:
    if not finite:
        tensor = piece.placement.source
        raise CheckpointError(
            f"{tensor.file} holds a NaN or infinite weight in {shown(tensor.name)}, rows {piece.first_row} to "
            f"{piece.first_row + piece.rows - 1}, expected numbers: {REMEDY}."
        )


def _kept(piece: Piece, content: NDArray[np.uint8], values: NDArray[np.float32]) -> NDArray[np.generic]:
    """The rows in the dtype they are stored as."""
    _check_finite(piece, bool(np.isfinite(values).all()))
    if piece.placement.kind is Kind.NORM:
        return to_bfloat16(values + np.float32(1))
    if kept_dtype(piece.placement) == piece.placement.source.dtype:
        return content.reshape(piece.rows, -1)
    return to_bfloat16(values)


def _write(writer: OutputWriter, tensor: str, row: int, rows: NDArray[np.generic]) -> None:
    content = np.ascontiguousarray(rows)
    writer.write(tensor, row, content.view(np.uint8).data.cast("B"), content.nbytes // len(content))
