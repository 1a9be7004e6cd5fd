"""A pass over tokens of which only a prefix may turn out to be wanted."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_qnext.cache.kv import GrowingCache
from mlx_qnext.mlx_lm_parts import ArraysCache
from mlx_qnext.model.gated_delta_net import Recorded, RecurrentState
from mlx_qnext.model.pooled_experts import PooledExperts


class Verification:
    """What decides, after the pass, how much of it the caches hold; of one sequence, without padding.

    Keys and values of all its tokens are in their caches when it is made, and no recurrent state has moved. Until `keep` has
    been called the caches are of no use; it may be called again with a smaller count as long as nothing else has run.

    Args:
        visited: the experts of every layer, which were told that only the first token is certain.
    """

    def __init__(
        self,
        growing: Sequence[GrowingCache],
        recurrent: Sequence[tuple[ArraysCache, RecurrentState, Recorded]],
        visited: Sequence[PooledExperts],
        tokens: int,
    ) -> None:
        self._growing, self._recurrent, self._visited = list(growing), list(recurrent), list(visited)
        self._held = tokens

    def keep(self, count: int) -> None:
        """Make every cache that of a pass over the first `count` tokens, at least one; no weight is read for it.

        Experts that only the other tokens visited are not counted as used.

        Raises:
            ValueError: `count` is not among the tokens still held.
        """
        if not 1 <= count <= self._held:
            raise ValueError(f"cannot keep {count} of {self._held} tokens")
        for cache in self._growing:
            cache.trim(self._held - count)
        for cache, past, recorded in self._recurrent:
            cache.cache = list(recorded.state_after(count, past))
        for experts in self._visited:
            experts.promote(count - 1)
        self._held = count
