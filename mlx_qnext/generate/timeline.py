"""A session's memory as tokens: what the cache holds, and the positions it can be taken back to."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_qnext.cache.hybrid import HybridCache, Snapshot, States
from mlx_qnext.model.verification import Verification

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
        self._last: tuple[int, Verification] | None = None

    def reuse(self, prompt: Sequence[int], *, drafting: bool = False) -> int:
        """Rewind to the last remembered position that `prompt` shares, short of its last token, and return it.

        The last token stays to be read, because its logits start the answer. With `drafting` it is a position to which the MTP
        head followed.
        """
        shared = min(_shared_length(self.tokens, prompt), len(prompt) - 1)
        if self.cache.position > shared or (drafting and not self.cache.head_follows):
            fit = [s for s in self._snapshots if s.position <= shared and (s.head or not drafting)]
            snapshot = fit[-1] if fit else self._start
            self._snapshots = [s for s in self._snapshots if s.position <= snapshot.position]
            self.cache.rewind(snapshot)
            del self.tokens[self.cache.position :]
        return self.cache.position

    def append(self, tokens: Sequence[int], verification: Verification | None = None) -> None:
        """Record tokens that the model has just run over the cache's layers; `verification` lets `keep` shorten them."""
        self.tokens += tokens
        self.cache.advance(len(tokens))
        self._last = None if verification is None else (len(tokens), verification)

    def keep(self, count: int) -> None:
        """Of the tokens that were just appended, all verified, hold only the first `count`, at least one."""
        if self._last is None:
            raise ValueError("the last tokens were not verified")
        length, verification = self._last
        verification.keep(count)
        self.cache.shorten(length - count)
        del self.tokens[self.cache.position :]
        self._last = count, verification

    def remember(self, states: States | None = None) -> None:
        """Keep this position to come back to, with recurrent `states` that have already gone on; the oldest beyond a few is
        let go."""
        self._last = None
        if all(s.position != self.cache.position for s in self._snapshots):
            self._snapshots = [*self._snapshots, self.cache.snapshot(states)][-_MOST_SNAPSHOTS:]

    def restore(self) -> None:
        """After a pass that broke off: go back to the last remembered position, where everything is whole."""
        self._last = None
        self.cache.rewind(self._snapshots[-1] if self._snapshots else self._start)
        del self.tokens[self.cache.position :]


def _shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    differs = (at for at, (x, y) in enumerate(zip(a, b)) if x != y)
    return next(differs, min(len(a), len(b)))
