"""A published checkpoint's tensors in the layout that MLX programs load.

Experts are stacked under `switch_mlp`, the convolution's axes are `[C, K, 1]`, and norms hold 1 + weight, added in fp32 and
kept in fp32: rounded to bf16, the sum would move the model's logits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import mlx.core as mx

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.errors import UnsupportedModelError

_EXPERT = re.compile(r"(.+\.mlp)\.experts\.0\.(\w+_proj)\.weight")
_GATED_NORM = ".linear_attn.norm.weight"


def mlx_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, mx.array]]:
    """Names and unevaluated arrays, in the order of the source's names; expert stacks where their first expert stands.

    Raises:
        UnsupportedModelError: the checkpoint, or its MTP head, is in MLX layout already, or quantised.
    """
    if checkpoint.quantization or "mlx" in (checkpoint.layout, checkpoint.mtp_layout):
        raise UnsupportedModelError(
            f"{checkpoint.folder} was converted to MLX already, expected a model as its publisher stores it: "
            "name the original."
        )
    arrays = checkpoint.arrays(checkpoint.tensors)
    for name in sorted(checkpoint.tensors):
        if match := _EXPERT.fullmatch(name):
            yield _stack(arrays, match[1], match[2])
        elif ".mlp.experts." not in name:
            yield name, _converted(name, arrays.pop(name))


def _stack(arrays: dict[str, mx.array], mlp: str, projection: str) -> tuple[str, mx.array]:
    each = []
    while (name := f"{mlp}.experts.{len(each)}.{projection}.weight") in arrays:
        each.append(arrays.pop(name))
    return f"{mlp}.switch_mlp.{projection}.weight", mx.stack(each)


def _converted(name: str, array: mx.array) -> mx.array:
    if name.endswith(".conv1d.weight"):
        return array.swapaxes(1, 2)
    if name.endswith(("norm.weight", "layernorm.weight")) or ".pre_fc_norm_" in name:
        return array if name.endswith(_GATED_NORM) else array.astype(mx.float32) + 1
    return array
