"""Everything that a conversion will do, decided from headers before any work: every byte of the result has its place.

The result's files are laid out first, so that a piece of a tensor can be written to its place whenever its source comes by.
Nothing is gathered: the experts of a stack may lie in any shards, in any order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any

from mlx_qnext.checkpoint import MTP_FILE, MTP_PREFIX, Checkpoint
from mlx_qnext.config import ModelConfig
from mlx_qnext.errors import CheckpointError, UnsupportedModelError
from mlx_qnext.json_fields import REMEDY, shown
from mlx_qnext.quantization import Precision
from mlx_qnext.safetensors_header import TensorInfo
from quantize.elements import DTYPES, FP8_DTYPE, scale_shape
from quantize.layout import Kind, Placement, placements
from quantize.output_files import OutputFile, lay_out
from quantize.recipe import Recipe

FORMAT = 1
"""Of what is made: another number means other bytes from the same source and recipe."""

MAX_FILE_BYTES = 5_000_000_000
_PIECE_ELEMENTS = 1 << 20
_FP8_ROWS = 128
_DECAY = (".A_log", ".dt_bias")
# Of config.json, in the spelling of transformers 4 and of 5.
_DTYPE_KEYS = frozenset({"torch_dtype", "dtype"})


@dataclass(frozen=True)
class Piece:
    """Rows [first_row, first_row + rows) of one source tensor, read, converted and written together.

    Attributes:
        target: the result's module, or tensor where nothing is quantised. target_row: where its rows begin there.
        columns: elements in a row. precision: `None` where the values are kept.
    """

    placement: Placement
    first_row: int
    rows: int
    columns: int
    target: str
    target_row: int
    precision: Precision | None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the source."""
        tensor = self.placement.source
        return self.columns * tensor.nbytes // max(prod(tensor.shape), 1)

    @property
    def source_bytes(self) -> int:
        """Bytes read."""
        return self.rows * self.row_bytes


@dataclass(frozen=True)
class Plan:
    """One conversion.

    Attributes:
        config: of the result. files: of the result, laid out. pieces: all work, in the order of the source's bytes.
        precisions: of each module that is a matrix, in the order of the model; `None` for those kept.
        fingerprint: the same if and only if source and result are, byte for byte.
    """

    config: dict[str, Any]
    files: tuple[OutputFile, ...]
    pieces: tuple[Piece, ...]
    precisions: Mapping[str, Precision | None]
    fingerprint: str

    @property
    def source_bytes(self) -> int:
        """Bytes that are read in all."""
        return sum(piece.source_bytes for piece in self.pieces)

    @property
    def output_bytes(self) -> int:
        """Bytes of the result's weights."""
        return sum(file.nbytes for file in self.files)

    def by_source_file(self) -> Iterator[tuple[str, list[int]]]:
        """Each file of the source with the numbers of its pieces, in order."""
        numbers = range(len(self.pieces))
        for name, group in groupby(numbers, key=lambda n: self.pieces[n].placement.source.file.name):
            yield name, list(group)


def make_plan(checkpoint: Checkpoint, recipe: Recipe, source: Mapping[str, object]) -> Plan:
    """The plan for a published checkpoint, in either layout.

    Args:
        source: what identifies the source's bytes, in plain JSON values.

    Raises:
        UnsupportedModelError: another architecture, quantised already, or a dtype that is not read here.
        CheckpointError: tensors that do not fit together. UsageError: the recipe does not fit the model.
    """
    config = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
    draft = _Draft(checkpoint, recipe, ModelConfig.from_dict(config).num_hidden_layers)
    quantization = {**settings(recipe.default), "mode": "affine", **draft.overrides(recipe.default)}
    return draft.plan(_with_quantization(config, quantization), source)


def make_mtp_plan(
    donor: Checkpoint, target: Checkpoint, recipe: Recipe, source: Mapping[str, object]
) -> Plan:
    """The plan that makes `mtp.safetensors` for `target`, a quantised checkpoint in MLX layout, from the head of `donor`.

    Raises:
        As `make_plan`.
    """
    head = {name: tensor for name, tensor in donor.tensors.items() if name.startswith(MTP_PREFIX)}
    draft = _Draft(
        replace(donor, tensors=head), recipe, ModelConfig.from_dict(donor.config).num_hidden_layers
    )
    assert target.quantization is not None
    present = target.config["quantization"]
    assert isinstance(present, dict)
    quantization = {**present, **draft.overrides(target.quantization.default)}
    return draft.plan(_with_quantization(target.config, quantization), source)


class _Draft:
    """What follows from tensors and recipe alone."""

    def __init__(self, checkpoint: Checkpoint, recipe: Recipe, layers: int) -> None:
        self.placed = placements(checkpoint)
        for placement in self.placed:
            _check_dtype(placement)
        self.stacks = _stacks(self.placed, checkpoint.folder)
        matrices = sorted(
            (p for p in self.placed if p.kind is Kind.MATRIX), key=lambda p: _reading_order(p.name)
        )
        columns = {module(p.name): p.shape[-1] for p in matrices}
        self.precisions = recipe.precisions(columns, layers)

    def overrides(self, default: Precision) -> dict[str, Any]:
        """What `config.json` has to say of modules that are not of the default precision."""
        return {
            path: settings(precision) if precision else False
            for path, precision in self.precisions.items()
            if precision != default
        }

    def plan(self, config: dict[str, Any], source: Mapping[str, object]) -> Plan:
        files = lay_out(_outputs(self.stacks, self.precisions), MAX_FILE_BYTES, whole_file=MTP_FILE)
        pieces = tuple(
            piece for p in self.placed for piece in _pieces(p, self.precisions.get(module(p.name)))
        )
        return Plan(config, files, pieces, self.precisions, _fingerprint(config, files, pieces, source))


def _with_quantization(config: Mapping[str, Any], quantization: Mapping[str, Any]) -> dict[str, Any]:
    dtype = dict.fromkeys(_DTYPE_KEYS & config.keys(), "bfloat16")
    # mlx-lm reads the first spelling, programs on top of it the second.
    return {**config, **dtype, "quantization": quantization, "quantization_config": quantization}


def module(name: str) -> str:
    """The module that a weight belongs to."""
    return name.removesuffix(".weight")


def _check_dtype(placement: Placement) -> None:
    tensor, scale = placement.source, placement.scale
    if tensor.dtype == FP8_DTYPE:
        if scale is None or scale.dtype not in DTYPES or scale.shape != scale_shape(tensor.shape):
            found = "no block scales" if scale is None else f"block scales {scale.dtype} {list(scale.shape)}"
            raise CheckpointError(
                f"{tensor.file} holds {shown(tensor.name)} in FP8 with {found}, expected "
                f"{list(scale_shape(tensor.shape))}, one for each 128 × 128 weights: {REMEDY}."
            )
    elif tensor.dtype not in DTYPES:
        raise UnsupportedModelError(
            f"{tensor.file} holds {shown(tensor.name)} as {tensor.dtype}, and only {', '.join((*DTYPES, FP8_DTYPE))} are "
            "converted here: choose the model as its publisher stores it."
        )


@dataclass(frozen=True)
class _Stack:
    """One tensor of the result before it is quantised."""

    placement: Placement
    shape: tuple[int, ...]


def _stacks(placed: Sequence[Placement], folder: Path) -> dict[str, _Stack]:
    """Each tensor of the result; every stack has all its experts, of one shape."""
    members: dict[str, list[Placement]] = {}
    for placement in placed:
        members.setdefault(placement.name, []).append(placement)
    return {name: _stack(name, parts, folder) for name, parts in members.items()}


def _stack(name: str, parts: list[Placement], folder: Path) -> _Stack:
    first = parts[0]
    if first.slot is None:
        return _Stack(first, first.shape)
    slots = {part.slot: part for part in parts}
    for slot in range(len(parts)):
        if slot not in slots:
            raise CheckpointError(
                f"{folder} has {len(parts)} experts for {name} and lacks number {slot}: {REMEDY}."
            )
        if slots[slot].shape != first.shape:
            raise CheckpointError(
                f"{shown(slots[slot].source.name)} has shape {list(slots[slot].shape)}, and {shown(first.source.name)} has "
                f"{list(first.shape)}, expected one shape: {REMEDY}."
            )
    return _Stack(first, (len(parts), *first.shape))


def _outputs(
    stacks: Mapping[str, _Stack], precisions: Mapping[str, Precision | None]
) -> Iterator[tuple[str, TensorInfo]]:
    """(file stem, tensor) of the result; where a tensor lies is not known yet."""
    for name in sorted(stacks, key=_reading_order):
        stack = stacks[name]
        file = MTP_FILE if name.startswith(MTP_PREFIX) else "model.safetensors"
        for output in _tensors(name, stack, precisions.get(module(name))):
            yield file, output


def _tensors(name: str, stack: _Stack, precision: Precision | None) -> list[TensorInfo]:
    def tensor(name: str, dtype: str, shape: tuple[int, ...], item_bytes: int) -> TensorInfo:
        return TensorInfo(name, Path(), dtype, shape, 0, prod(shape) * item_bytes)

    if precision is None:
        dtype = kept_dtype(stack.placement)
        return [tensor(name, dtype, stack.shape, 4 if dtype == "F32" else 2)]
    *rows, columns = stack.shape
    path, groups = module(name), columns // precision.group_size
    return [
        tensor(f"{path}.weight", "U32", (*rows, columns * precision.bits // 32), 4),
        tensor(f"{path}.scales", "BF16", (*rows, groups), 2),
        tensor(f"{path}.biases", "BF16", (*rows, groups), 2),
    ]


def kept_dtype(placement: Placement) -> str:
    """What a tensor that is not quantised is stored as: bf16, because one fp32 norm makes other MLX programs compute everything
    in fp32; the decay's parameters, which are exponentiated, as they were."""
    return placement.source.dtype if placement.name.endswith(_DECAY) else "BF16"


def _reading_order(name: str) -> tuple[int, list[tuple[int, str]]]:
    """The embedding, the layers by number, then what follows them; the MTP head last."""
    if name.startswith(MTP_PREFIX):
        group = 3
    elif name.startswith("model.embed_tokens."):
        group = 0
    else:
        group = 1 if name.startswith("model.layers.") else 2
    return group, [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _pieces(placement: Placement, precision: Precision | None) -> Iterator[Piece]:
    *outer, columns = placement.shape if len(placement.shape) > 1 else (1, *placement.shape)
    rows = prod(outer)
    target = module(placement.name) if precision else placement.name
    offset = (placement.slot or 0) * rows
    step = max(_PIECE_ELEMENTS // max(columns, 1) // _FP8_ROWS * _FP8_ROWS, 1)
    for first in range(0, rows, step):
        yield Piece(placement, first, min(step, rows - first), columns, target, offset + first, precision)


def settings(precision: Precision) -> dict[str, int]:
    """A precision as `config.json` spells it."""
    return {"group_size": precision.group_size, "bits": precision.bits}


def _fingerprint(
    config: Mapping[str, Any],
    files: Iterable[OutputFile],
    pieces: Iterable[Piece],
    source: Mapping[str, object],
) -> str:
    read = {
        (piece.placement.source.file.name, piece.placement.source.name, piece.placement.source.start)
        for piece in pieces
    }
    facts = [
        FORMAT,
        config,
        [[file.name, hashlib.sha256(file.header).hexdigest()] for file in files],
        sorted(read),
        source,
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
