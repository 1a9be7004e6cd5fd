"""Where each tensor of a published checkpoint goes in the layout that MLX programs load.

Experts are stacked under `switch_mlp`, the convolution's axes become `[C, K, 1]`, and norms hold 1 + weight. A checkpoint that
is in that layout already, unquantised, keeps its names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from mlx_qnext.checkpoint import MTP_PREFIX, Checkpoint
from mlx_qnext.errors import CheckpointError
from mlx_qnext.json_fields import REMEDY, shown
from mlx_qnext.safetensors_header import TensorInfo

SCALE_SUFFIX = "_scale_inv"

_EXPERT = re.compile(r"(.+\.mlp)\.experts\.(\d+)\.(\w+_proj)\.weight")
_NORM = re.compile(r".*(norm|layernorm|\.pre_fc_norm_\w+)\.weight")
_GATED_NORM = ".linear_attn.norm.weight"


class Kind(Enum):
    """What is done to a tensor."""

    MATRIX = "matrix"
    """Quantised where the recipe says so."""
    NORM = "norm"
    """1 is added."""
    COPY = "copy"
    """Its bytes are kept."""


@dataclass(frozen=True)
class Placement:
    """One tensor's place in the result.

    Attributes:
        source: the tensor read. scale: its 128 × 128 block scales, for FP8. name: of the result's tensor.
        slot: the expert's place in the stack, `None` for a tensor that is the whole of it.
        shape: of the tensor as it is laid out there, or of its slot.
    """

    source: TensorInfo
    scale: TensorInfo | None
    name: str
    kind: Kind
    slot: int | None
    shape: tuple[int, ...]


def placements(checkpoint: Checkpoint) -> list[Placement]:
    """One for each tensor, in the order of the files' bytes.

    Raises:
        CheckpointError: block scales that belong to nothing.
    """
    tensors = checkpoint.tensors
    placed = [
        _placement(checkpoint, tensor, tensors.get(tensor.name + SCALE_SUFFIX))
        for tensor in tensors.values()
        if not tensor.name.endswith(SCALE_SUFFIX)
    ]
    used = {placement.scale.name for placement in placed if placement.scale}
    lost = [name for name in tensors if name.endswith(SCALE_SUFFIX) and name not in used]
    if lost:
        raise CheckpointError(f"{checkpoint.folder} has {shown(lost[0])} and no weight for it: {REMEDY}.")
    return sorted(placed, key=lambda placement: (placement.source.file.name, placement.source.start))


def _placement(checkpoint: Checkpoint, tensor: TensorInfo, scale: TensorInfo | None) -> Placement:
    layout = checkpoint.mtp_layout if tensor.name.startswith(MTP_PREFIX) else checkpoint.layout
    name, slot, shape = tensor.name, None, tensor.shape
    if match := _EXPERT.fullmatch(name):
        name, slot = f"{match[1]}.switch_mlp.{match[3]}.weight", int(match[2])
    if name.endswith(".conv1d.weight"):
        if layout == "hf" and len(shape) == 3:
            shape = (shape[0], shape[2], shape[1])
        kind = Kind.COPY
    elif layout == "hf" and _NORM.fullmatch(name) and not name.endswith(_GATED_NORM):
        kind = Kind.NORM
    else:
        kind = Kind.MATRIX if name.endswith(".weight") and len(shape) >= 2 else Kind.COPY
    return Placement(tensor, scale, name, kind, slot, shape)
