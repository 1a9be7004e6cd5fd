"""Where every expert of a layer lies on disk: byte ranges from headers, in whichever layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from mlx_qnext.checkpoint import Checkpoint, TensorInfo
from mlx_qnext.quantization import Precision


@dataclass(frozen=True)
class StoredArray:
    """One array of one projection, for every expert of a layer.

    Attributes:
        name: `weight`, `scales` or `biases`. dtype: as the header spells it.
        shape: of one expert's share. nbytes: of that share on disk.
        places: file and offset of each expert's share, by expert.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    places: tuple[tuple[Path, int], ...]


@dataclass(frozen=True)
class StoredProjection:
    """One projection `[rows, columns]` of every expert of a layer.

    Attributes:
        precision: how it is packed; `None` where it is plain.
    """

    precision: Precision | None
    arrays: tuple[StoredArray, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of one expert's projection on disk."""
        return sum(array.nbytes for array in self.arrays)

    def alike(self, other: StoredProjection) -> bool:
        """Whether both are stored in the same precision and dtypes, with rows of the same length."""
        return self.precision == other.precision and [
            (array.name, array.dtype, array.shape[-1]) for array in self.arrays
        ] == [(array.name, array.dtype, array.shape[-1]) for array in other.arrays]

    def followed_by(self, other: StoredProjection) -> StoredProjection:
        """The experts of both, where they are alike and have as many rows."""
        joined = (
            StoredArray(a.name, a.dtype, a.shape, a.nbytes, a.places + b.places)
            for a, b in zip(self.arrays, other.arrays, strict=True)
        )
        return StoredProjection(self.precision, tuple(joined))

    @property
    def rows(self) -> int:
        """Rows of one expert's matrix."""
        return self.arrays[0].shape[0]


@dataclass(frozen=True)
class StoredExperts:
    """The experts of one layer.

    Attributes:
        path: of the feed-forward they belong to, such as `model.layers.3.mlp`.
        routed: how many a router chooses from; the projections may hold one more, the shared expert.
    """

    path: str
    routed: int
    gate: StoredProjection
    up: StoredProjection
    down: StoredProjection

    @property
    def nbytes(self) -> int:
        """Bytes of one expert on disk."""
        return self.gate.nbytes + self.up.nbytes + self.down.nbytes

    @property
    def has_shared(self) -> bool:
        """Whether the shared expert stands behind the others, as the last."""
        return len(self.gate.arrays[0].places) > self.routed

    def files(self) -> frozenset[Path]:
        """Every file that holds a part of an expert."""
        arrays = (array for part in (self.gate, self.up, self.down) for array in part.arrays)
        return frozenset(file for array in arrays for file, _ in array.places)


def stored_projection(checkpoint: Checkpoint, modules: Sequence[str]) -> StoredProjection:
    """A projection as a checkpoint holds it: stacked in one module, or a module for each expert, in the order given.

    Whether names, shapes and dtypes are right has been checked before.
    """
    precision = checkpoint.precision_of(modules[0])
    names = ("weight",) if precision is None else ("weight", "scales", "biases")
    return StoredProjection(
        precision, tuple(_array(name, [checkpoint.tensors[f"{m}.{name}"] for m in modules]) for name in names)
    )


def _array(name: str, tensors: Sequence[TensorInfo]) -> StoredArray:
    first = tensors[0]
    *stacked, rows, columns = first.shape
    share = first.nbytes // prod(stacked)
    places = tuple(
        (tensor.file, tensor.start + n * share) for tensor in tensors for n in range(prod(stacked))
    )
    return StoredArray(name, first.dtype, (rows, columns), share, places)
