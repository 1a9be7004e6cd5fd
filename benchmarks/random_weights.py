"""The bytes of random weights, piece by piece: the same for the same seed, and no two experts' alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from benchmarks.shape import GROUP, ROUTER, Shape, centre_of, is_packed, plain_mean, step_of
from mlx_qnext.checkpoint import TensorInfo
from quantize.bfloat16 import from_bfloat16, to_bfloat16

# Groups' scales differ by so much either way: an expert whose scales were left behind by another gives itself away.
_SPREAD = 0.25
_STEPS = 256
# Small enough to come from warm memory: clearing fresh pages costs more than their random bits.
PIECE_BYTES = 1 << 16


@dataclass(frozen=True)
class RandomWeights:
    """Weights of modules by path, with a seed.

    A router's rows are as long as exp(`skew` · normal), which row being dealt anew in each layer. A long row's logits reach far
    either way, and far on tokens of its own: some experts are visited often and others hardly, and no two tokens alike.
    """

    modules: Mapping[str, Shape]
    seed: int = 0
    skew: float = 0.0

    def pieces(self, tensor: TensorInfo) -> Iterator[memoryview]:
        """A tensor's bytes from its first to its last."""
        if tensor.name in self.modules and not is_packed(tensor.name, self.modules[tensor.name]):
            yield self._plain(tensor.name).data.cast("B")
            return
        module, _, part = tensor.name.rpartition(".")
        if part == "weight":
            yield from (words.data for words in self._bytes(tensor.name, tensor.nbytes))
        elif module.endswith(ROUTER):
            yield self._router(module, part).data.cast("B")
        else:
            table = self._table(module, 1.0, part)
            yield from (table[steps].data.cast("B") for steps in self._steps(module))

    def _plain(self, path: str) -> NDArray[np.uint16]:
        noise = self._generator(path).standard_normal(prod(self.modules[path]), dtype=np.float32)
        return to_bfloat16(np.float32(plain_mean(path)) + np.float32(0.1) * noise)

    def _router(self, module: str, part: str) -> NDArray[np.uint16]:
        rows = self.modules[module][0]
        lengths = np.exp(self.skew * self._generator(f"{module}.lengths").standard_normal(rows))
        steps = np.concatenate(list(self._steps(module))).reshape(rows, -1)
        return np.stack([self._table(module, length, part)[row] for length, row in zip(lengths, steps)])

    def _steps(self, module: str) -> Iterator[NDArray[np.uint8]]:
        """A random byte for each group, from which both its scale and its bias come."""
        return self._bytes(f"{module}.steps", prod(self.modules[module]) // GROUP)

    def _table(self, module: str, length: float, part: str) -> NDArray[np.uint16]:
        """Scales or biases in bf16 by a group's random byte, in rows so many times as long as usual."""
        step = np.float32(length * step_of(module, self.modules[module][-1]))
        scales = to_bfloat16(step * np.linspace(1 - _SPREAD, 1 + _SPREAD, _STEPS, dtype=np.float32))
        if part == "scales":
            return scales
        return to_bfloat16(np.float32(-centre_of(module)) * from_bfloat16(scales))

    def _bytes(self, name: str, count: int) -> Iterator[NDArray[np.uint8]]:
        bits = self._bits(name)
        for start in range(0, count, PIECE_BYTES):
            nbytes = min(PIECE_BYTES, count - start)
            yield bits.random_raw(-(-nbytes // 8)).view(np.uint8)[:nbytes]

    def _generator(self, name: str) -> np.random.Generator:
        return np.random.Generator(self._bits(name))

    def _bits(self, name: str) -> np.random.SFC64:
        digest = hashlib.blake2b(f"{self.seed} {name}".encode(), digest_size=16).digest()
        return np.random.SFC64(int.from_bytes(digest, "little"))
