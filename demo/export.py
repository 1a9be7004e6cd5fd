"""Checkpoints in the layout of the 2025 Qwen3-Next releases: bf16 safetensors in shards, experts unfused."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from demo.architecture import Architecture
from demo.model import DemoModel

SHARD_BYTES = 15_000_000


def _published(name: str) -> str:
    return name if name.startswith(("mtp.", "lm_head.")) else f"model.{name}"


def tensors(model: DemoModel) -> dict[str, Tensor]:
    """Return the weights by their published names, in bf16 on the CPU."""
    result: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        base, found, stack = _published(name).partition(".experts.")
        if not found:
            result[base] = value
            continue
        matrices = value.mT if stack == "down_proj" else value
        result |= {f"{base}.experts.{e}.{stack}.weight": matrix for e, matrix in enumerate(matrices)}
    return {name: value.detach().cpu().to(torch.bfloat16).contiguous() for name, value in result.items()}


def restore(model: DemoModel, published: dict[str, Tensor]) -> None:
    """Load published weights into a model. Raises KeyError if one is missing."""
    state = {}
    for name, value in model.state_dict().items():
        base, found, stack = _published(name).partition(".experts.")
        if found:
            count = value.shape[0]
            matrices = torch.stack([published[f"{base}.experts.{e}.{stack}.weight"] for e in range(count)])
            state[name] = (matrices.mT if stack == "down_proj" else matrices).float()
        else:
            state[name] = published[base].float()
    model.load_state_dict(state)


def load(folder: Path) -> DemoModel:
    """Return the model in a folder, in float32."""
    model = DemoModel(Architecture.from_config(json.loads((folder / "config.json").read_text())))
    weights: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    restore(model, weights)
    return model


def _shards(weights: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name in sorted(weights):
        size += weights[name].nbytes
        if size > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = weights[name].nbytes
        shards[-1][name] = weights[name]
    return shards


def save(model: DemoModel, folder: Path, end: int, padding: int) -> None:
    """Write weights, index, config.json and generation_config.json; `end` and `padding` are token ids."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = tensors(model)
    shards = _shards(weights)
    placed = {}
    for index, shard in enumerate(shards, 1):
        file = f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": placed}
    sampling = {
        "bos_token_id": padding,
        "do_sample": True,
        "eos_token_id": [end, padding],
        "pad_token_id": padding,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    (folder / "config.json").write_text(json.dumps(model.architecture.config(end, padding), indent=2))
    (folder / "generation_config.json").write_text(json.dumps(sampling, indent=2))
