"""A session's memory as tokens: what the cache holds, and the positions it can be taken back to."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_qnext.cache.hybrid import HybridCache, Snapshot

# Each one keeps a whole recurrent state alive, 77 MB in the 80B model.
_MOST_SNAPSHOTS = 4


class Timeline:
    """The tokens that the cache has seen, always as many as its position, and snapshots along them.

    Attributes:
        tokens: what the cache holds.
    """

    def __init__(self, cache: HybridCache) -> None:
        self.cache = cache
        self.tokens: list[int] = []
        self._start = cache.snapshot()
        self._snapshots: list[Snapshot] = []

    def reuse(self, prompt: Sequence[int]) -> int:
        """Rewind to the last remembered position that `prompt` shares, short of its last token, and return it.

        The last token stays to be read, because its logits start the answer.
        """
        shared = min(_shared_length(self.tokens, prompt), len(prompt) - 1)
        if self.cache.position > shared:
            self._snapshots = [s for s in self._snapshots if s.position <= shared]
            self.cache.rewind(self._snapshots[-1] if self._snapshots else self._start)
            del self.tokens[self.cache.position :]
        return self.cache.position

    def append(self, tokens: Sequence[int]) -> None:
        """Record tokens that the model has just run over the cache's layers."""
        self.tokens += tokens
        self.cache.advance(len(tokens))

    def remember(self) -> None:
        """Keep this position to come back to; the oldest one beyond a few is let go."""
        if all(s.position != self.cache.position for s in self._snapshots):
            self._snapshots = [*self._snapshots, self.cache.snapshot()][-_MOST_SNAPSHOTS:]


def _shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    differs = (at for at, (x, y) in enumerate(zip(a, b)) if x != y)
    return next(differs, min(len(a), len(b)))
