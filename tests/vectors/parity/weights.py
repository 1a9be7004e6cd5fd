"""Random weights that exercise the arithmetic, stored in files as the released checkpoints store theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from grid import BASE, Case, Config
from safetensors.numpy import save_file

Tensors = dict[str, np.ndarray]


def random_tensors(names: Mapping[str, tuple[int, ...]], case: Case, seed: int) -> Tensors:
    """One fp32 array for every name and shape; the same seed gives the same arrays."""
    rng = np.random.default_rng(seed)
    tensors = {name: _draw(name, shape, case, rng) for name, shape in sorted(names.items())}
    for name in tensors:
        if name.endswith("in_proj_qkvz.weight"):
            _align_queries(tensors, name.removesuffix("in_proj_qkvz.weight"), case)
    if case.correlated_keys:
        _correlate_keys(tensors, rng)
    return {name: value.astype(np.float32) for name, value in tensors.items()}


def _draw(name: str, shape: tuple[int, ...], case: Case, rng: np.random.Generator) -> np.ndarray:
    """Spread that a degenerate initialisation lacks: norms off their centre, decay from weak to strong, sharp routers."""
    if name.endswith("A_log"):
        return np.log(rng.uniform(8, 16, shape) if case.strong_decay else rng.uniform(0.02, 16, shape))
    if name.endswith("dt_bias"):
        return rng.uniform(1.0, 3.0, shape) if case.strong_decay else rng.uniform(-6.0, 1.0, shape)
    if name.endswith("linear_attn.norm.weight"):
        return rng.normal(1.0, 0.3, shape)
    if len(shape) == 1:
        return rng.normal(0.0, 0.3, shape)
    if name.endswith("conv1d.weight"):
        return rng.normal(0.0, shape[-1] ** -0.5, shape)
    if name.endswith("embed_tokens.weight"):
        return rng.normal(0.0, 0.3 if case.fields.get("tie_word_embeddings") else 1.0, shape)
    gain = 3.0 if name.endswith("mlp.gate.weight") else 1.0
    if name.endswith(("out_proj.weight", "o_proj.weight", "down_proj.weight", "experts.down_proj")):
        gain = 0.5
    return rng.normal(0.0, gain * shape[-1] ** -0.5, shape)


def _align_queries(tensors: Tensors, prefix: str, case: Case) -> None:
    """Queries that resemble keys, as trained ones do.

    Independent ones give a first token with q·k near 0, whose output the gated norm then scales up, rounding errors
    included: transformers in fp32 would be 5e-5 away from itself in fp64, and the goldens would be worth no more.
    """
    fields = BASE | case.fields
    heads, dim = fields["linear_num_key_heads"], fields["linear_key_head_dim"]
    per_head = tensors[f"{prefix}in_proj_qkvz.weight"].reshape(heads, -1, fields["hidden_size"])
    per_head[:, :dim] = 0.3 * per_head[:, :dim] + 0.95 * per_head[:, dim : 2 * dim]
    conv = tensors[f"{prefix}conv1d.weight"]
    conv[: heads * dim] = 0.3 * conv[: heads * dim] + 0.95 * conv[heads * dim : 2 * heads * dim]


def _correlate_keys(tensors: Tensors, rng: np.random.Generator) -> None:
    """Every embedding near one direction, and recurrent layers that read beta near 1 and little decay from it."""
    embedding = tensors["model.embed_tokens.weight"]
    common = np.sign(rng.normal(size=embedding.shape[1]))
    tensors["model.embed_tokens.weight"] = 3.0 * common + 0.3 * embedding
    for name, value in tensors.items():
        if name.endswith("A_log"):
            tensors[name] = np.full_like(value, np.log(0.01))
        if name.endswith("in_proj_ba.weight"):
            # Rows are [b, a] for each of two key heads: both follow the common direction.
            scale = np.linalg.norm(common)
            tensors[name] = (
                0.1 * value + np.array([4.0, 4.0, -1.0, -1.0] * 2)[:, None] * common / scale**2 * 1.2
            )


def unfused(tensors: Tensors) -> Tensors:
    """Stacked experts split into one tensor an expert and projection; every other tensor as it was."""
    out: Tensors = {}
    for name, value in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            stem = name.removesuffix("gate_up_proj")
            for expert, both in enumerate(value):
                gate, up = np.split(both, 2)
                out[f"{stem}{expert}.gate_proj.weight"] = gate
                out[f"{stem}{expert}.up_proj.weight"] = up
        elif name.endswith("experts.down_proj"):
            stem = name.removesuffix("down_proj")
            out |= {f"{stem}{expert}.down_proj.weight": down for expert, down in enumerate(value)}
        else:
            out[name] = value
    return out


def write_checkpoint(folder: Path, config: Config, tensors: Tensors, shards: int) -> None:
    """`folder` holds config.json and the tensors, in one file or in `shards` files with an index; mtp.* lies in the last."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    by_file = _sharded(tensors, shards)
    for file, part in by_file.items():
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(value.nbytes for value in tensors.values())},
        "weight_map": {name: file for file, part in by_file.items() for name in part},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


def _sharded(tensors: Tensors, shards: int) -> dict[str, Tensors]:
    """Runs of names, so that a layer's experts straddle two files; mtp.* sorts behind the model's."""
    trunk = sorted(name for name in tensors if not name.startswith("mtp."))
    mtp = sorted(name for name in tensors if name.startswith("mtp."))
    parts = shards - 1 if mtp and shards > 2 else shards
    groups = [list(group) for group in np.array_split(np.array(trunk), parts)]
    if parts < shards:
        groups.append([])
    groups[-1] += mtp
    return {
        f"model-{i:05d}-of-{shards:05d}.safetensors": {str(name): tensors[str(name)] for name in group}
        for i, group in enumerate(groups, 1)
    }
