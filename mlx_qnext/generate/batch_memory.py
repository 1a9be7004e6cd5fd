"""How many sequences a model's planned memory holds at a time, which depends on how long they are by now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mlx_qnext.cache.shelves import row_entries
from mlx_qnext.experts.plan import MemoryPlan

# Positions that the reading timeline can be taken back to: where later prompts part from this one, and its end.
READING_CHECKPOINTS = 3


@dataclass(frozen=True)
class BatchMemory:
    """What was set aside for one session, and what is left beside everything planned, shared out anew.

    Attributes:
        bytes: for keys, values and states, of the timeline that reads prompts and of all sequences.
        state_bytes: of the recurrent layers at one position. token_bytes: keys and values of one token.
    """

    bytes: int
    state_bytes: int
    token_bytes: int

    @classmethod
    def of(cls, plan: MemoryPlan) -> BatchMemory:
        """That of a plan."""
        left = max(0, plan.total_bytes - plan.taken_bytes)
        return cls(
            bytes=plan.cache_bytes + plan.state_bytes + left,
            state_bytes=plan.state_bytes // (plan.checkpoints + 1),
            token_bytes=plan.cache_bytes // plan.context_tokens,
        )

    def holds(self, reading_tokens: int, sequences: Iterable[int]) -> bool:
        """Whether there is room for a timeline that has read prompts of so many tokens, and for sequences of these lengths."""
        taken = (READING_CHECKPOINTS + 1) * self.state_bytes + reading_tokens * self.token_bytes
        for tokens in sequences:
            taken += self.state_bytes + row_entries(tokens) * self.token_bytes
        return taken <= self.bytes
