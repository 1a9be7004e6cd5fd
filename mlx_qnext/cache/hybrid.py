"""One timeline over two kinds of memory: keys and values that grow, and recurrent states that are replaced.

MLX arrays are values and a recurrent layer rebinds its slots, so a snapshot is references to those arrays and a position; keys
and values are only truncated. A recurrent state can be taken back to a snapshot and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx

from mlx_qnext.cache.head import HeadCache, HeadMark
from mlx_qnext.cache.kv import GROWING_CACHES, GrowingCache, forked, held_arrays, reserve
from mlx_qnext.mlx_lm_parts import ArraysCache

States: TypeAlias = tuple[tuple[mx.array | None, ...], ...]


# Where the head has to begin again: what it holds may be of tokens that are forgotten.
_NOWHERE = HeadMark(0, ())


@dataclass(frozen=True)
class Snapshot:
    """The recurrent states of all layers at one position of the timeline.

    Attributes:
        head: where the MTP head was; `None` where it had not followed, or there is none.
        hidden: the trunk's state there, `[1, 1, hidden]`, where an answer may begin without reading anything.
    """

    position: int
    states: States
    head: HeadMark | None
    hidden: mx.array | None = None


class HybridCache:
    """The caches of all layers of one sequence, at one position.

    Attributes:
        layers: one mlx-lm cache per layer, as the model takes them.
        head: the MTP head's, or `None`. It falls behind where nothing drafts, and follows again from a snapshot where it did.
        position: how many tokens the layers have seen.
    """

    def __init__(self, layers: Sequence[GrowingCache | ArraysCache], head: HeadCache | None = None) -> None:
        self.layers = list(layers)
        self.head = head
        self.position = 0

    @property
    def head_follows(self) -> bool:
        """Whether the MTP head has seen what the layers have seen."""
        return self.head is not None and self.head.position == self.position

    def advance(self, tokens: int) -> None:
        """Record that the model has run `tokens` more tokens over `layers`."""
        self.position += tokens

    def shorten(self, tokens: int) -> None:
        """Record that a verification let go of the last `tokens` tokens; the head, if it follows, forgets their states."""
        if self.head is not None and self.head_follows:
            self.head.shorten(tokens)
        self.position -= tokens

    def snapshot(self, states: States | None = None, hidden: mx.array | None = None) -> Snapshot:
        """This position, to which `rewind` can return; `states` are the recurrent layers' where they have already gone on, and
        `hidden` is the trunk's."""
        head = self.head.mark() if self.head is not None and self.head_follows else None
        held = tuple(tuple(layer.cache) for layer in self.recurrent) if states is None else states
        return Snapshot(self.position, held, head, hidden)

    def rewind(self, snapshot: Snapshot) -> None:
        """Return to a snapshot of this timeline; what came after it is forgotten, a pass that broke off in some layer too.

        Raises:
            ValueError: the snapshot lies ahead of the cache.
        """
        if snapshot.position > self.position:
            raise ValueError(f"cannot rewind from {self.position} forward to {snapshot.position}")
        for layer, state in zip(self.recurrent, snapshot.states, strict=True):
            layer.cache = list(state)
        for layer in self.growing:
            layer.trim(layer.offset - snapshot.position)
        if self.head is not None:
            self.head.rewind(snapshot.head or _NOWHERE)
        self.position = snapshot.position

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` in all when keys and values next grow: every growth copies what is there."""
        for layer in self.growing:
            reserve(layer, tokens - layer.offset)
        if self.head is not None:
            reserve(self.head.kv, tokens - self.head.kv.offset)

    def fork(self) -> HybridCache:
        """A cache that holds the same; keys and values are copied when either of the two next grows."""
        layers = [_forked(layer) for layer in self.layers]
        copied = HybridCache(layers, None if self.head is None else self.head.fork())
        copied.position = self.position
        return copied

    def arrays(self) -> list[mx.array]:
        """Every array held, for evaluation."""
        found: list[mx.array] = []
        for layer in self.layers:
            if isinstance(layer, ArraysCache):
                found += [array for array in layer.cache if array is not None]
            else:
                found += held_arrays(layer)
        return found + (self.head.arrays() if self.head is not None else [])

    @property
    def recurrent(self) -> list[ArraysCache]:
        """Those of the recurrent layers, in order."""
        return [layer for layer in self.layers if isinstance(layer, ArraysCache)]

    @property
    def growing(self) -> list[GrowingCache]:
        """Those of the attention layers, in order."""
        return [layer for layer in self.layers if isinstance(layer, GROWING_CACHES)]


def _forked(layer: GrowingCache | ArraysCache) -> GrowingCache | ArraysCache:
    if not isinstance(layer, ArraysCache):
        return forked(layer)
    # Window and state are replaced and never written to, so both may hold the same ones.
    copied = copy(layer)
    copied.cache = list(layer.cache)
    return copied
