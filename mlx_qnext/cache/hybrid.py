"""One timeline over two kinds of memory: keys and values that grow, and recurrent states that are replaced.

MLX arrays are values and a recurrent layer rebinds its slots, so a snapshot is references to those arrays and a position; keys
and values are only truncated. A recurrent state can be taken back to a snapshot and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_qnext.mlx_lm_parts import ArraysCache, KVCache


@dataclass(frozen=True)
class Snapshot:
    """The recurrent states of all layers at one position of the timeline."""

    position: int
    states: tuple[tuple[mx.array | None, ...], ...]


class HybridCache:
    """The caches of all layers of one sequence, at one position.

    Attributes:
        layers: one mlx-lm cache per layer, as the model takes them.
        position: how many tokens the layers have seen.
    """

    def __init__(self, layers: Sequence[KVCache | ArraysCache]) -> None:
        self.layers = list(layers)
        self.position = 0

    def advance(self, tokens: int) -> None:
        """Record that the model has run `tokens` more tokens over `layers`."""
        self.position += tokens

    def snapshot(self) -> Snapshot:
        """This position, to which `rewind` can return."""
        return Snapshot(self.position, tuple(tuple(layer.cache) for layer in self._recurrent()))

    def rewind(self, snapshot: Snapshot) -> None:
        """Return to a snapshot of this timeline; what came after it is forgotten.

        Raises:
            ValueError: the snapshot lies ahead of the cache.
        """
        surplus = self.position - snapshot.position
        if surplus < 0:
            raise ValueError(f"cannot rewind from {self.position} forward to {snapshot.position}")
        for layer, state in zip(self._recurrent(), snapshot.states, strict=True):
            layer.cache = list(state)
        for layer in self.layers:
            if isinstance(layer, KVCache):
                layer.trim(surplus)
        self.position = snapshot.position

    def arrays(self) -> list[mx.array]:
        """Every array held, for evaluation."""
        found: list[mx.array | None] = []
        for layer in self.layers:
            found += layer.cache if isinstance(layer, ArraysCache) else [layer.keys, layer.values]
        return [array for array in found if array is not None]

    def _recurrent(self) -> list[ArraysCache]:
        return [layer for layer in self.layers if isinstance(layer, ArraysCache)]
