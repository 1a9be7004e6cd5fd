"""Which experts of a model were asked for most, remembered between runs so that they are read first.

It is a hint: whatever befalls its file costs speed and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import TypeGuard

from mlx_qnext.checkpoint import Checkpoint, TensorInfo
from mlx_qnext.experts.files import WeightFiles
from mlx_qnext.experts.remembered import recalled, remember

_FOLDER = "hot"
# Models of one shape have the same headers: the first bytes of every file's weights tell them apart.
_SAMPLE_BYTES = 4096
_KEY_BYTES = 16


def hot_key(checkpoint: Checkpoint) -> str:
    """The model's name in the cache: that of the same files anywhere, and another for other weights.

    Raises:
        CheckpointError: a file cannot be read, or changed since the checkpoint was opened.
    """
    by_file: dict[Path, list[TensorInfo]] = {}
    for tensor in checkpoint.tensors.values():
        by_file.setdefault(tensor.file, []).append(tensor)
    digest = blake2b(digest_size=_KEY_BYTES)
    with closing(WeightFiles(by_file)) as files:
        for file in sorted(by_file):
            tensors = sorted(by_file[file], key=lambda tensor: (tensor.start, tensor.name))
            ranges = [
                (tensor.name, tensor.dtype, tensor.shape, tensor.start, tensor.end) for tensor in tensors
            ]
            digest.update(json.dumps([file.name, ranges]).encode())
            sample = bytearray(min(_SAMPLE_BYTES, tensors[-1].end - tensors[0].start))
            files.read(file, tensors[0].start, [memoryview(sample)])
            digest.update(sample)
    return digest.hexdigest()


def load_hot(key: str) -> dict[str, list[int]]:
    """Module path → its experts, the hottest first, as they were saved; empty where nothing sound is there.

    That the model has such modules and experts is for the caller to check.
    """
    experts = recalled(_FOLDER, key).get("experts")
    if not isinstance(experts, dict):
        return {}
    sound = {path: numbers for path, numbers in experts.items() if _are_experts(numbers)}
    return sound if len(sound) == len(experts) else {}


def save_hot(key: str, experts: Mapping[str, Sequence[int]]) -> bool:
    """Whether `load_hot` now gives these; where they cannot be written, it gives what it gave before.

    Args:
        experts: module path → its experts, the hottest first.
    """
    return remember(_FOLDER, key, {"experts": {path: list(numbers) for path, numbers in experts.items()}})


def _are_experts(numbers: object) -> TypeGuard[list[int]]:
    if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
        return False
    return len(set(numbers)) == len(numbers)
