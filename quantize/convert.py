"""From a published checkpoint to local quantised weights, for checkpoints that fit in memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_qnext.checkpoint import MTP_FILE, MTP_PREFIX, Checkpoint
from mlx_qnext.config import ModelConfig
from mlx_qnext.errors import UsageError
from mlx_qnext.quantization import Precision
from quantize.mlx_layout import mlx_tensors
from quantize.recipe import Recipe

_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
)


def quantize_checkpoint(source: Path, dest: Path, recipe: Recipe) -> None:
    """`dest` holds the weights of `source` in MLX layout, quantised by `recipe`; the MTP head in `mtp.safetensors`.

    `dest` appears only when it is complete, and nothing stays behind where it cannot be. mlx-lm loads it, and so does
    `mlx_qnext`.

    Raises:
        UsageError: `dest` exists.
        CheckpointError, UnsupportedModelError: as `Checkpoint.open`, `ModelConfig.from_dict` and `mlx_tensors`.
    """
    if dest.exists():
        raise UsageError(f"{dest} exists already: name a new folder, or remove that one.")
    checkpoint = Checkpoint.open(source)
    ModelConfig.from_dict(checkpoint.config)
    partial = dest.with_name(dest.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(checkpoint, partial, recipe)
        partial.rename(dest)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(checkpoint: Checkpoint, folder: Path, recipe: Recipe) -> None:
    files: dict[str, dict[str, mx.array]] = {"model.safetensors": {}, MTP_FILE: {}}
    overrides: dict[str, Any] = {}
    for name, array in mlx_tensors(checkpoint):
        tensors = files[MTP_FILE if name.startswith(MTP_PREFIX) else "model.safetensors"]
        module = name.removesuffix(".weight")
        precision = recipe.precision_of(module, array.shape[-1]) if _is_matrix(name, array) else None
        tensors.update({name: array} if precision is None else _packed(module, array, precision))
        if _is_matrix(name, array) and precision != recipe.default:
            overrides[module] = _settings(precision) if precision else False
    for file, tensors in files.items():
        if tensors:
            mx.save_safetensors(str(folder / file), tensors, {"format": "mlx"})
    _write_config(checkpoint.config, recipe, overrides, folder)
    for file in _COPIED:
        if (checkpoint.folder / file).exists():
            shutil.copyfile(checkpoint.folder / file, folder / file)


def _is_matrix(name: str, array: mx.array) -> bool:
    return array.ndim >= 2 and ".conv1d." not in name


def _packed(module: str, array: mx.array, precision: Precision) -> dict[str, mx.array]:
    arrays = mx.quantize(array, group_size=precision.group_size, bits=precision.bits)
    return {f"{module}.{name}": x for name, x in zip(("weight", "scales", "biases"), arrays, strict=True)}


def _settings(precision: Precision) -> dict[str, int]:
    return {"group_size": precision.group_size, "bits": precision.bits}


def _write_config(config: dict[str, object], recipe: Recipe, overrides: dict[str, Any], folder: Path) -> None:
    quantization = {**_settings(recipe.default), "mode": "affine", **overrides}
    # mlx-lm reads the first spelling, programs on top of it the second.
    written = config | {"quantization": quantization, "quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
