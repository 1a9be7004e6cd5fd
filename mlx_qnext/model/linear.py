"""Products with weights: plain or quantised, one matrix or a stack of experts."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import mlx.core as mx
from mlx import nn

from mlx_qnext.ops.device import Backend, backend
from mlx_qnext.ops.matrix import Matrix, join_neighbours

# From this many rows of input on (for experts: rows per expert), unpacking the weights once and multiplying plainly beats the
# packed product, whose cost grows with the rows there. CUDA's has a tiled form too, at half a minute of compilation for each
# tile size; Metal's is tiled and never needs this. `benchmarks/README.md` holds the measurements.
_UNPACK_FROM_ROWS = {Backend.CPU: 8, Backend.CUDA: 8}
_UNPACK_FROM_ROWS_PER_EXPERT = {Backend.CPU: 8, Backend.CUDA: 6}
# On the CPU a matrix that leaves the cache while it is unpacked and laid out anew, one of more elements than this, needs
# more rows.
_LARGE_ELEMENTS = 1 << 20
_UNPACK_LARGE_FROM_ROWS = {Backend.CPU: 48}
_UNPACK_LARGE_FROM_ROWS_PER_EXPERT = {Backend.CPU: 28}
# There, bits that do not divide a word take six times as long to unpack, which so many rows more make up for.
_MORE_ROWS_IF_UNEVEN = {Backend.CPU: 16}
_WORD_BITS = 32
_NEVER = 1 << 62


class _Stored(nn.Module):
    """A matrix or a stack of them as module parameters, plain or packed."""

    scales: Any
    biases: Any

    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        self.weight, self.scales, self.biases = matrix.weight, matrix.scales, matrix.biases
        self.precision = matrix.precision

    def unpacked(self, index: mx.array | slice = slice(None)) -> mx.array:
        """Plain values of `weight[index]`."""
        if self.precision is None:
            return self.weight[index]
        return mx.dequantize(self.weight[index], **self._packing(index))

    def _transposed(self, index: mx.array | slice = slice(None)) -> mx.array:
        """Plain values of `weight[index]`, `[…, columns, rows]`.

        The CPU wheels' BLAS multiplies by a matrix that lies transposed at half speed, so there it is laid out anew.
        """
        view = self.unpacked(index).swapaxes(-1, -2)
        return mx.contiguous(view) if backend() is Backend.CPU else view

    def _unpack_from(self, x: mx.array, rows: dict[Backend, int], rows_if_large: dict[Backend, int]) -> int:
        """From how many rows of input on (for experts: rows per expert) the weights are unpacked first."""
        limit = rows.get(backend(), _NEVER)
        if self.weight.shape[-2] * x.shape[-1] > _LARGE_ELEMENTS:
            limit = rows_if_large.get(backend(), limit)
        if self.precision is not None and _WORD_BITS % self.precision.bits:
            limit += _MORE_ROWS_IF_UNEVEN.get(backend(), 0)
        return limit

    def _packing(self, index: mx.array | slice | None = None) -> dict[str, Any]:
        """How packed weights are packed, as MLX's quantised operations take it."""
        assert self.precision is not None
        scales, biases = self.scales, self.biases
        if index is not None:
            scales, biases = scales[index], biases[index]
        settings = {"bits": self.precision.bits, "group_size": self.precision.group_size}
        return {"scales": scales, "biases": biases, **settings}


class Linear(_Stored):
    """One matrix as a layer: `[…, columns] → […, rows]`, in the input's dtype."""

    def __init__(self, matrix: Matrix) -> None:
        super().__init__(matrix)
        self.bias = matrix.bias

    def __call__(self, x: mx.array) -> mx.array:
        """Multiply; packed weights are unpacked first where that pays (`_UNPACK_FROM_ROWS`)."""
        y = self._product(x)
        return y if self.bias is None else y + self.bias

    def _product(self, x: mx.array) -> mx.array:
        rows = self._unpack_from(x, _UNPACK_FROM_ROWS, _UNPACK_LARGE_FROM_ROWS)
        if prod(x.shape[:-1]) >= rows:
            return x @ self._transposed()
        if self.precision is None:
            return x @ self.weight.T
        return mx.quantized_matmul(x, self.weight, transpose=True, **self._packing())


class Projection(nn.Module):
    """Several matrices that read the same input, as few products: `[…, columns] → […, sum of rows]`."""

    def __init__(self, matrices: Sequence[Matrix]) -> None:
        super().__init__()
        self.parts = [Linear(matrix) for matrix in join_neighbours(matrices)]

    def __call__(self, x: mx.array) -> mx.array:
        """The rows of all matrices, in the order given."""
        if len(self.parts) == 1:
            return self.parts[0](x)
        return mx.concatenate([part(x) for part in self.parts], axis=-1)


class Embedding(nn.Module):
    """Rows of a matrix by token; its transpose gives logits where the two are tied."""

    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        self.rows = Linear(matrix)

    def __call__(self, tokens: mx.array) -> mx.array:
        """Token ids `[…]` → `[…, columns]`."""
        return self.rows.unpacked(tokens)

    def as_linear(self, x: mx.array) -> mx.array:
        """Logits against every row."""
        return self.rows(x)


class Few(NamedTuple):
    """The only matrices of a stack that a product reads.

    Attributes:
        matrices: their places in the stack, ascending. named: for each row of the input, which of these it names.
    """

    matrices: mx.array
    named: mx.array


class ExpertLinear(_Stored):
    """A stack of matrices `[E, rows, columns]`, one of which each row of the input names."""

    def __call__(self, x: mx.array, experts: mx.array, *, in_order: bool, few: Few | None = None) -> mx.array:
        """`x` `[…, 1, columns]` and `experts` `[…]` → `[…, 1, rows]`; `in_order` promises that `experts` is sorted."""
        unpack_from = self._unpack_from(x, _UNPACK_FROM_ROWS_PER_EXPERT, _UNPACK_LARGE_FROM_ROWS_PER_EXPERT)
        read = self.weight.shape[0] if few is None else few.matrices.size
        if in_order and experts.size >= unpack_from * read:
            matrices, index = (slice(None), experts) if few is None else few
            weight = self._transposed(matrices)
            return mx.gather_mm(x, weight, rhs_indices=index, sorted_indices=_sorts(in_order))
        if self.precision is None:
            weight = self.weight.swapaxes(-1, -2)
            return mx.gather_mm(x, weight, rhs_indices=experts, sorted_indices=_sorts(in_order))
        return mx.gather_qmm(
            x,
            self.weight,
            rhs_indices=experts,
            transpose=True,
            sorted_indices=in_order,
            **self._packing(),
        )


def _sorts(in_order: bool) -> bool:
    """What `gather_mm` may be told of the order: nothing on CUDA, where MLX 0.32.4 then leaves rows unwritten."""
    return in_order and backend() is not Backend.CUDA
