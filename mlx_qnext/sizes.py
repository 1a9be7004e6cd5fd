"""How large a checkpoint is, part by part, and how many parameters a token meets: from headers alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

from mlx_qnext.checkpoint import Checkpoint, TensorInfo
from mlx_qnext.config import ModelConfig

Part = Literal["experts", "attention", "recurrent", "embeddings", "mtp", "other"]
PARTS: tuple[Part, ...] = get_args(Part)

_PACKING_SUFFIXES = (".scales", ".biases", ".weight_scale_inv")


def part_of(name: str) -> Part:
    """The part of the model that a tensor belongs to. The MTP head is one part, experts and all; shared experts,
    routers, dense MLPs and norms are "other"."""
    if name.startswith("mtp."):
        return "mtp"
    if ".mlp.experts." in name or ".mlp.switch_mlp." in name:
        return "experts"
    if ".self_attn." in name:
        return "attention"
    if ".linear_attn." in name:
        return "recurrent"
    if name.startswith(("model.embed_tokens.", "lm_head.")):
        return "embeddings"
    return "other"


@dataclass(frozen=True)
class Parameters:
    """Counts of weights, whatever their precision; scales and biases of the quantisation are no weights.

    Attributes:
        total: all that the files hold, the MTP head too.
        active: those that one decoded token is multiplied with: the chosen experts and everything dense. The MTP
            head, and the embedding table that a token reads one row of, are not.
    """

    total: int
    active: int


def bytes_by_part(checkpoint: Checkpoint) -> dict[Part, int]:
    """Bytes on disk of each part; their sum is the size of all tensors."""
    sizes = dict.fromkeys(PARTS, 0)
    for tensor in checkpoint.tensors.values():
        sizes[part_of(tensor.name)] += tensor.nbytes
    return sizes


def count_parameters(checkpoint: Checkpoint, config: ModelConfig) -> Parameters:
    """The model's size as its cards give it.

    Raises:
        CheckpointError: a quantised module's shapes contradict its precision.
    """
    counts = dict.fromkeys(PARTS, 0)
    for tensor in checkpoint.tensors.values():
        counts[part_of(tensor.name)] += _elements(checkpoint, tensor)
    active = sum(counts.values()) - counts["mtp"] - counts["experts"]
    active += counts["experts"] * config.num_experts_per_tok // max(config.num_experts, 1)
    table = checkpoint.tensors.get("model.embed_tokens.weight")
    if table and not config.tie_word_embeddings:
        active -= _elements(checkpoint, table)
    return Parameters(sum(counts.values()), active)


def precisions_by_part(checkpoint: Checkpoint) -> dict[Part, tuple[str, ...]]:
    """How each part's matrices are stored, as `4-bit g64` or `bf16`, the most bytes first; convolutions, which
    are never quantised, are left out.

    Raises:
        CheckpointError: a quantised module's shapes contradict its precision.
    """
    sizes: dict[Part, dict[str, int]] = {part: {} for part in PARTS}
    for tensor in checkpoint.tensors.values():
        is_matrix = tensor.name.endswith(".weight") and len(tensor.shape) > 1
        if is_matrix and not tensor.name.endswith(".conv1d.weight"):
            label, part = _precision_label(checkpoint, tensor), sizes[part_of(tensor.name)]
            part[label] = part.get(label, 0) + tensor.nbytes
    return {part: tuple(sorted(labels, key=lambda label: -labels[label])) for part, labels in sizes.items()}


def _precision_label(checkpoint: Checkpoint, tensor: TensorInfo) -> str:
    precision = checkpoint.precision_of(tensor.name.removesuffix(".weight"))
    return f"{precision.bits}-bit g{precision.group_size}" if precision else tensor.dtype.lower()


def _elements(checkpoint: Checkpoint, tensor: TensorInfo) -> int:
    if tensor.name.endswith(_PACKING_SUFFIXES):
        return 0
    module = tensor.name.removesuffix(".weight")
    precision = checkpoint.precision_of(module) if module != tensor.name else None
    if precision is None:
        return prod(tensor.shape)
    return prod(checkpoint.tensors[f"{module}.scales"].shape) * precision.group_size
