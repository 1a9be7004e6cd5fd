"""What the MTP head remembers: its keys and values, and the trunk's states that still wait for their next token."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from mlx_qnext.cache.kv import GrowingCache, forked, held_arrays


class HeadMark(NamedTuple):
    """A position of a `HeadCache`: how many entries it had, and the states that waited."""

    entries: int
    waiting: tuple[mx.array, ...]


class HeadCache:
    """Entry t belongs to the trunk's state at t and the token at t + 1, so the last state waits until that token is known.

    Attributes:
        kv: keys and values; entries are made from the trunk's own states only, but for drafts that are still out.
        waiting: states `[1, n, hidden]` at the positions that follow, of tokens that the trunk has run.
    """

    def __init__(self, kv: GrowingCache) -> None:
        self.kv = kv
        self.waiting: list[mx.array] = []

    @property
    def position(self) -> int:
        """How many of the sequence's tokens it has followed."""
        return self.kv.offset + sum(states.shape[1] for states in self.waiting)

    def follow(self, states: mx.array) -> None:
        """Take the trunk's states `[1, n, hidden]` of the next n tokens."""
        self.waiting.append(states)

    def take(self) -> mx.array:
        """All waiting states as one array, which wait no longer."""
        states = mx.concatenate(self.waiting, axis=1)
        self.waiting = []
        return states

    def shorten(self, tokens: int) -> None:
        """Forget the last tokens, whose states all came in the last `follow`."""
        states = self.waiting.pop()
        self.waiting.append(states[:, : states.shape[1] - tokens])

    def mark(self) -> HeadMark:
        """This position, to which `rewind` can return."""
        return HeadMark(self.kv.offset, tuple(self.waiting))

    def rewind(self, mark: HeadMark) -> None:
        """Return to a mark; what came after it is forgotten."""
        self.kv.trim(self.kv.offset - mark.entries)
        self.waiting = list(mark.waiting)

    def fork(self) -> HeadCache:
        """A cache that holds the same; keys and values are copied when either of the two next grows."""
        copied = HeadCache(forked(self.kv))
        copied.waiting = list(self.waiting)
        return copied

    def arrays(self) -> list[mx.array]:
        """Every array held, for evaluation."""
        return [*held_arrays(self.kv), *self.waiting]
