"""The golden vectors under tests/vectors/parity, and our model of each of their checkpoints."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import mlx_qnext

FOLDER = Path(__file__).parent / "vectors" / "parity"


@dataclass(frozen=True)
class ParityCase:
    """One tiny checkpoint; `lengths` are those of its golden sequences."""

    name: str
    lengths: tuple[int, ...]
    mtp: bool
    files: tuple[tuple[str, str], ...]

    @property
    def checkpoint(self) -> Path:
        return FOLDER / self.name / "checkpoint"

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def config(self) -> dict[str, Any]:
        return json.loads((self.checkpoint / "config.json").read_text())

    def golden(self, name: str, length: int) -> np.ndarray:
        """`tokens`, `logits`, `hidden`, or `mtp.…` of the sequence of that length; no batch axis."""
        return np.array(_arrays(FOLDER / self.name / "vectors.safetensors")[f"{name}.{length}"])

    def tokens(self, length: int) -> mx.array:
        """The sequence as a batch of one, `[1, T]`."""
        return mx.array(self.golden("tokens", length))[None]

    def tensors(self) -> dict[str, np.ndarray]:
        """Every tensor of the checkpoint under its own name."""
        files = sorted(self.checkpoint.glob("*.safetensors"))
        return {name: np.array(value) for file in files for name, value in _arrays(file).items()}

    def model(self) -> Any:
        return _model(self.checkpoint)


def all_cases() -> list[ParityCase]:
    """The cases of the manifest, in its order."""
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    return [
        ParityCase(entry["name"], tuple(entry["lengths"]), entry["mtp"], tuple(entry["files"].items()))
        for entry in manifest["cases"]
    ]


@functools.cache
def _arrays(file: Path) -> dict[str, mx.array]:
    arrays = mx.load(str(file))
    assert isinstance(arrays, dict)
    return arrays


@functools.cache
def _model(checkpoint: Path) -> Any:
    model, _ = mlx_qnext.load_model(checkpoint)
    return model
