"""Tiny random checkpoints in the form of the official FP8 repositories."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
from builders import write_hf_checkpoint

BLOCK = 128
EXEMPT = ("embed_tokens", "lm_head", "mlp.gate", "shared_expert_gate", "in_proj_ba", "conv1d", "mtp.fc")
"""What that form leaves in bf16, beside vectors."""


def write_fp8_checkpoint(
    folder: Path, config_overrides: dict | None = None
) -> tuple[Path, dict[str, mx.array]]:
    """The folder, and the fp32 values that its tensors stand for: most matrices are E4M3 with a bf16 scale for each block."""
    write_hf_checkpoint(folder, config_overrides)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [BLOCK, BLOCK],
    }
    (folder / "config.json").write_text(json.dumps(config))
    tensors = mx.load(str(folder / "model.safetensors"))
    assert isinstance(tensors, dict)
    stored: dict[str, mx.array] = {}
    values: dict[str, mx.array] = {}
    for name, array in tensors.items():
        values[name] = array.astype(mx.float32)
        stored[name] = array
        if array.ndim == 2 and not any(part in name for part in EXEMPT):
            stored[name], stored[f"{name}_scale_inv"], values[name] = _rounded(array.astype(mx.float32))
    mx.save_safetensors(str(folder / "model.safetensors"), stored, {"format": "pt"})
    rename_dtype(folder / "model.safetensors")
    return folder, values


def _rounded(matrix: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """(codes, scales, values); the largest weight of a block is E4M3's largest number, 448."""
    rows, columns = matrix.shape
    padded = mx.pad(matrix, [(0, -rows % BLOCK), (0, -columns % BLOCK)])
    blocks = padded.reshape(padded.shape[0] // BLOCK, BLOCK, padded.shape[1] // BLOCK, BLOCK)
    scales = (mx.abs(blocks).max(axis=(1, 3)) / 448).astype(mx.bfloat16)
    spread = scales.astype(mx.float32)[:, None, :, None]
    codes = mx.to_fp8((blocks / spread).reshape(padded.shape))[:rows, :columns]
    values = (
        mx.from_fp8(codes, mx.float32)
        * mx.broadcast_to(spread, blocks.shape).reshape(padded.shape)[:rows, :columns]
    )
    return mx.contiguous(codes), scales, values


def rename_dtype(path: Path) -> None:
    """MLX writes bytes as U8, and the format has a name of its own for these."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].replace(b'"U8"', b'"F8_E4M3"')
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
