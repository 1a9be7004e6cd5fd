"""A checkpoint's tensors as matrices and vectors, in whichever layout they lie, each checked against the configuration.

Two layouts are read. `hf`: one tensor per expert, convolution `[C, 1, K]`, norms stored as weight - 1. `mlx`: experts
stacked under `switch_mlp`, convolution `[C, K, 1]`, norms ready to multiply, any matrix affine-quantised.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_qnext.checkpoint import PACKED_DTYPE, PLAIN_DTYPES, Checkpoint
from mlx_qnext.errors import CheckpointError
from mlx_qnext.experts.layout import StoredProjection, stored_projection
from mlx_qnext.model.norm import RmsNorm
from mlx_qnext.ops.device import compute_dtype
from mlx_qnext.ops.matrix import Matrix

_STACK = "switch_mlp"


class Weights:
    """Hands out each tensor once, lazily: nothing is read before it is evaluated, and nothing is held after it is handed out.

    Attributes:
        dtype: of activations, and of everything plain except norms and the decay's parameters.

    Raises:
        UnsupportedModelError: the configuration names a quantisation that is not computed here.
        CheckpointError: it names an absurd one, or there are no embeddings.
    """

    def __init__(self, checkpoint: Checkpoint, eps: float) -> None:
        # Another program's quantisation is refused by its name, before its tensors are by theirs.
        _ = checkpoint.quantization
        self._arrays = checkpoint.arrays(checkpoint.tensors)
        self._checkpoint = checkpoint
        self._eps = eps
        embeddings = "model.embed_tokens"
        stored = self._array(f"{embeddings}.{'scales' if self._packed(embeddings) else 'weight'}").dtype
        self.dtype = compute_dtype(stored)

    def remaining(self) -> list[str]:
        """Names of tensors that nobody has asked for."""
        return sorted(self._arrays)

    def has(self, name: str) -> bool:
        """Whether a tensor of this name has not been handed out yet."""
        return name in self._arrays

    def matrix(self, path: str, rows: int, columns: int, *, bias: bool = False) -> Matrix:
        """`path.weight` `[rows, columns]`, packed where `path.scales` stands beside it.

        Raises:
            CheckpointError: missing, or of another shape than asked.
        """
        return self._matrix(path, (rows, columns), bias)

    def experts(self, path: str, name: str, count: int, rows: int, columns: int) -> Matrix:
        """The projections `name` of all experts under `path`, as one stack `[count, rows, columns]`."""
        if self._packed(f"{path}.{_STACK}.{name}") or self.has(f"{path}.{_STACK}.{name}.weight"):
            return self._matrix(f"{path}.{_STACK}.{name}", (count, rows, columns), bias=False)
        each = [self.matrix(f"{path}.experts.{n}.{name}", rows, columns) for n in range(count)]
        return Matrix(mx.stack([matrix.weight for matrix in each]))

    def stored(self, path: str, name: str, count: int) -> StoredProjection:
        """Where the projections `name` of all experts under `path` lie, in the order of the experts."""
        stack = f"{path}.{_STACK}.{name}"
        if f"{stack}.weight" in self._checkpoint.tensors:
            return stored_projection(self._checkpoint, [stack])
        return stored_projection(self._checkpoint, [f"{path}.experts.{n}.{name}" for n in range(count)])

    def stored_alone(self, path: str) -> StoredProjection:
        """Where the matrix at `path` lies, as a projection of one expert."""
        return stored_projection(self._checkpoint, [path])

    def vector(self, name: str, size: int) -> mx.array:
        """A plain tensor `[size]`, in the dtype it is stored in."""
        return self._take(name, (size,))

    def norm(self, path: str, size: int, *, zero_centred: bool = True) -> RmsNorm:
        """The norm at `path`, whose weight the `hf` layout stores minus 1 where it is `zero_centred`."""
        weight = self._take(f"{path}.weight", (size,))
        if zero_centred and self._is_hf(path):
            weight = weight.astype(mx.float32) + 1
        elif weight.dtype != mx.float32:
            weight = weight.astype(self.dtype)
        return RmsNorm(weight, self._eps)

    def convolution(self, path: str, channels: int, kernel: int) -> mx.array:
        """The filters at `path` as `[channels, kernel]`, oldest input first."""
        shape = (channels, 1, kernel) if self._is_hf(path) else (channels, kernel, 1)
        return self._take(f"{path}.weight", shape).reshape(channels, kernel).astype(self.dtype)

    def _matrix(self, path: str, shape: tuple[int, ...], bias: bool) -> Matrix:
        added = self._take(f"{path}.bias", shape[-2:-1]) if bias else None
        if not self._packed(path):
            return Matrix(self._take(f"{path}.weight", shape), bias=added).astype(self.dtype)
        precision = self._checkpoint.precision_of(path)
        assert precision is not None
        words = (*shape[:-1], shape[-1] * precision.bits // 32)
        weight = self._take(f"{path}.weight", words, dtypes=(PACKED_DTYPE,))
        groups = (*shape[:-1], shape[-1] // precision.group_size)
        scales, biases = (self._take(f"{path}.{name}", groups) for name in ("scales", "biases"))
        return Matrix(weight, scales, biases, precision, added).astype(self.dtype)

    def _packed(self, path: str) -> bool:
        return self.has(f"{path}.scales")

    def _is_hf(self, path: str) -> bool:
        of_mtp = path.startswith("mtp.")
        return (self._checkpoint.mtp_layout if of_mtp else self._checkpoint.layout) == "hf"

    def _array(self, name: str) -> mx.array:
        if name not in self._arrays:
            raise CheckpointError(
                f"The checkpoint has no tensor {name}, which its config.json calls for: download the model again."
            )
        return self._arrays[name]

    def _take(self, name: str, shape: tuple[int, ...], *, dtypes: tuple[str, ...] = PLAIN_DTYPES) -> mx.array:
        array = self._array(name)
        dtype = self._checkpoint.tensors[name].dtype
        if dtype not in dtypes:
            raise CheckpointError(
                f"Tensor {name} is stored as {dtype}, expected {', '.join(dtypes)}, and packed integers only with "
                "scales beside them: download the model again."
            )
        if tuple(array.shape) != shape:
            raise CheckpointError(
                f"Tensor {name} has shape {list(array.shape)}, and config.json calls for {list(shape)}: "
                "config.json and the weights are not of one model; download it again."
            )
        return self._arrays.pop(name)
