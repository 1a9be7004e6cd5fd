"""Tiny random checkpoints in every way that experts are stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
from builders import write_hf_checkpoint, write_mlx_checkpoint

EXPERTS, TOP_K = 8, 2
SHAPE = {"num_experts": EXPERTS, "num_experts_per_tok": TOP_K}


def _mlx(bits: int, group_size: int, **overrides: int) -> Callable[[Path], Path]:
    return lambda folder: write_mlx_checkpoint(
        folder, SHAPE | overrides, bits=bits, group_size=group_size, mtp="inside"
    )


def _hf(folder: Path) -> Path:
    return write_hf_checkpoint(folder, SHAPE, shards=3)


def _hf_with_another_shared_expert(folder: Path) -> Path:
    return write_hf_checkpoint(folder, SHAPE | {"shared_expert_intermediate_size": 96})


def _half_precision(folder: Path) -> Path:
    return write_hf_checkpoint(folder, SHAPE, dtype=mx.float16)


def _repacked(part: str) -> Callable[[Path], Path]:
    """4 bits, and 8 for the modules whose names hold the part."""

    def write(folder: Path) -> Path:
        file, config = folder / "model.safetensors", folder / "config.json"
        _mlx(4, 32)(folder)
        tensors, values = mx.load(str(file)), json.loads(config.read_text())
        assert isinstance(tensors, dict)
        modules = [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]
        for module in [m for m in modules if part in m and not m.endswith("_gate")]:
            names = [f"{module}.{name}" for name in ("weight", "scales", "biases")]
            plain = mx.dequantize(*(tensors[name] for name in names), group_size=32, bits=4)
            packed = mx.quantize(plain, group_size=32, bits=8)
            tensors |= dict(zip(names, packed, strict=True))
            values["quantization"][module] = {"group_size": 32, "bits": 8}
        mx.eval(tensors)
        mx.save_safetensors(str(file), tensors, {"format": "mlx"})
        config.write_text(json.dumps(values))
        return folder

    return write


KINDS: dict[str, Callable[[Path], Path]] = {
    "hf bf16": _hf,
    "hf f16": _half_precision,
    "hf, another shared expert": _hf_with_another_shared_expert,
    "3 bits by 32": _mlx(3, 32),
    "4 bits by 64": _mlx(4, 64),
    "5 bits by 32": _mlx(5, 32),
    "8 bits by 64": _mlx(8, 64),
    "up at more bits": _repacked("up_proj"),
    "shared expert at more bits": _repacked("shared_expert."),
}
