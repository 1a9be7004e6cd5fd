"""A weight as a checkpoint stores it, and the rearrangements of its rows that change no number.

Affine quantisation groups along a row's columns, so rows may be permuted, split and joined freely: fusing projections at load
is exact for packed weights as it is for plain ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_qnext.quantization import Precision


@dataclass(frozen=True)
class Matrix:
    """`[…, rows, columns]`, plain or affine-quantised along the columns.

    Attributes:
        weight: plain values, or packed ones in uint32.
        scales, biases: `[…, rows, columns / group_size]`; `None` for plain values.
        precision: bits and group size of the packed values; `None` for plain ones.
        bias: `[…, rows]`, added to the product; `None` for most layers of this model.
    """

    weight: mx.array
    scales: mx.array | None = None
    biases: mx.array | None = None
    precision: Precision | None = None
    bias: mx.array | None = None

    @property
    def rows(self) -> int:
        """The length of the product's last axis."""
        return self.weight.shape[-2]

    def map(self, change: Callable[[mx.array], mx.array]) -> Matrix:
        """Apply one rearrangement of rows to every array."""
        arrays = {name: getattr(self, name) for name in ("weight", "scales", "biases", "bias")}
        return replace(self, **{name: change(x) for name, x in arrays.items() if x is not None})

    def take_rows(self, rows: mx.array) -> Matrix:
        """The rows with these indices, in this order, of a matrix without leading axes."""
        return self.map(lambda x: x[rows])

    def astype(self, dtype: mx.Dtype) -> Matrix:
        """Values (or scales and biases) in `dtype`; packed integers stay."""
        names = ("scales", "biases", "bias") if self.precision else ("weight", "bias")
        found = {name: getattr(self, name) for name in names}
        return replace(self, **{name: x.astype(dtype) for name, x in found.items() if x is not None})


def matches(first: Matrix, second: Matrix) -> bool:
    """Whether the two can be joined without changing a number."""
    return (
        first.precision == second.precision
        and first.weight.dtype == second.weight.dtype
        and first.weight.shape[-1] == second.weight.shape[-1]
        and (first.bias is None) == (second.bias is None)
    )


def join(matrices: Sequence[Matrix], axis: int) -> Matrix:
    """Concatenate matrices that match along `axis`, which is not the last one.

    `axis` 0 of stacks joins experts; axis -2 joins rows, and then a bias is joined along its last axis.
    """
    first = matrices[0]
    if len(matrices) == 1:
        return first
    arrays = {}
    for name in ("weight", "scales", "biases", "bias"):
        if getattr(first, name) is not None:
            along = -1 if name == "bias" and axis == -2 else axis
            arrays[name] = mx.concatenate([getattr(m, name) for m in matrices], axis=along)
    return replace(first, **arrays)


def join_neighbours(matrices: Sequence[Matrix]) -> list[Matrix]:
    """Join each run of matching neighbours by rows, so that the fewest products give the same rows in the same order."""
    runs: list[list[Matrix]] = []
    for matrix in matrices:
        if runs and matches(runs[-1][0], matrix):
            runs[-1].append(matrix)
        else:
            runs.append([matrix])
    return [join(run, axis=-2) for run in runs]
