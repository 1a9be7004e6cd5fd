"""Checkpoints of any shape as a publisher stores them: bf16, an expert a tensor, in shards of 2 GB; random, on the disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx

from benchmarks.shape import Shape, modules

SHARD_BYTES = 2_000_000_000
_POOL = 1 << 28


def write_published(folder: Path, config: dict[str, Any]) -> int:
    """A checkpoint of this configuration in `folder`; its bytes."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}))
    pool = (0.02 * mx.random.normal((_POOL,), key=mx.random.key(0))).astype(mx.bfloat16)
    mx.eval(pool)
    shards = list(_shards(config))
    placed: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {name: _weights(pool, shape, start) for start, (name, shape) in enumerate(names)}
        mx.save_safetensors(str(folder / file), tensors, {"format": "pt"})
        placed |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return sum(path.stat().st_size for path in folder.iterdir())


def _weights(pool: mx.array, shape: Shape, start: int) -> mx.array:
    """A piece of the pool, another one for each tensor; the pool over again where it is too short."""
    count = prod(shape)
    if count > _POOL:
        return mx.concatenate([pool] * -(-count // _POOL))[:count].reshape(shape)
    offset = 7919 * start % (_POOL - count + 1)
    return pool[offset : offset + count].reshape(shape)


def _shards(config: dict[str, Any]) -> Iterator[list[tuple[str, Shape]]]:
    shard, nbytes = [], 0
    for name, shape in sorted(_published_shapes(config)):
        shard.append((name, shape))
        nbytes += 2 * prod(shape)
        if nbytes >= SHARD_BYTES:
            yield shard
            shard, nbytes = [], 0
    if shard:
        yield shard


def _published_shapes(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    for path, shape in modules(config).items():
        name = path if len(shape) == 1 or path.endswith(".weight") else f"{path}.weight"
        if name.endswith(".conv1d.weight"):
            channels, *taps = shape
            yield name, (channels, *reversed(taps))
        elif ".switch_mlp." in name:
            yield from ((name.replace("switch_mlp", f"experts.{n}"), shape[1:]) for n in range(shape[0]))
        else:
            yield name, shape
