"""A session's memory as tokens: what the cache holds, and the positions it can be taken back to."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from mlx_qnext.cache.freezing import freeze, thaw
from mlx_qnext.cache.frozen import Frozen
from mlx_qnext.cache.hybrid import HybridCache, States
from mlx_qnext.cache.shapes import CacheShapes
from mlx_qnext.generate.checkpoints import DEFAULT_MOST_CHECKPOINTS, Checkpoints, Marks
from mlx_qnext.model.verification import Verification


class Timeline:
    """The tokens that the cache has seen, always as many as its position, and checkpoints along them.

    Attributes:
        tokens: what the cache holds.
        checkpoints: where it can be taken back to.
    """

    def __init__(self, cache: HybridCache, most_checkpoints: int = DEFAULT_MOST_CHECKPOINTS) -> None:
        self.cache = cache
        self.tokens: list[int] = []
        self.checkpoints = Checkpoints(cache.snapshot(), most_checkpoints)
        self._last: tuple[int, Verification] | None = None

    def reuse(self, prompt: Sequence[int], *, drafting: bool = False) -> int:
        """Hold a beginning of `prompt` and nothing else, as long a one as there is a way back to; returns its length.

        With `drafting` it is a position to which the MTP head followed.
        """
        shared = shared_length(self.tokens, prompt)
        if self.cache.position > shared or (drafting and not self.cache.head_follows):
            snapshot = self.checkpoints.nearest(shared, drafting=drafting)
            self.checkpoints.forget_beyond(snapshot.position)
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

    @property
    def hidden(self) -> mx.array | None:
        """The trunk's state `[1, 1, hidden]` of the last token, where it is remembered."""
        last = self.checkpoints.last
        return last.hidden if last.position == self.cache.position else None

    def remember(self, states: States | None = None, hidden: mx.array | None = None) -> None:
        """Keep this position to come back to, with recurrent `states` where they have already gone on.

        With the trunk's state `hidden` of the last token an answer can begin there at once.
        Everything the cache holds is evaluated, so that the position keeps no other array alive, and any thread can go on.
        """
        self._last = None
        mx.eval(self.cache.arrays(), states, hidden)
        self.checkpoints.add(self.cache.snapshot(states, hidden))

    def restore(self) -> None:
        """After a pass that broke off: go back to the last remembered position, where everything is whole."""
        self._last = None
        self.cache.rewind(self.checkpoints.last)
        del self.tokens[self.cache.position :]

    def fork(self) -> Timeline:
        """A timeline that holds the same; what either reads from now on is its own."""
        forked = Timeline(self.cache.fork())
        forked.tokens, forked.checkpoints = list(self.tokens), self.checkpoints.copy()
        return forked

    def freeze(self) -> Frozen:
        """All of it as named arrays and plain facts."""
        frozen = freeze(self.cache, self.checkpoints.snapshots)
        return Frozen(frozen.arrays, {**frozen.facts, "tokens": self.tokens, "marks": self.checkpoints.marks})

    @classmethod
    def thaw(cls, frozen: Frozen, cache: HybridCache, shapes: CacheShapes, most_checkpoints: int) -> Timeline:
        """What was frozen, over an empty cache of its kind and these shapes.

        Raises:
            ValueError: it is not what `freeze` gives for such a cache.
        """
        timeline = cls(cache, most_checkpoints)
        snapshots = thaw(frozen, cache, shapes)
        timeline.tokens = [int(token) for token in frozen.facts.get("tokens", ())]
        if len(timeline.tokens) != cache.position:
            raise ValueError(f"it has {len(timeline.tokens)} tokens for {cache.position} positions")
        timeline.checkpoints.marks = Marks(*frozen.facts.get("marks", ()))
        for snapshot in snapshots:
            timeline.checkpoints.add(snapshot)
        # Any thread can go on, as from every remembered position.
        mx.eval(cache.arrays(), [(snapshot.states, snapshot.head) for snapshot in snapshots])
        return timeline


def shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens two sequences share."""
    differs = (at for at, (x, y) in enumerate(zip(a, b)) if x != y)
    return next(differs, min(len(a), len(b)))
