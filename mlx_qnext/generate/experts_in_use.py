"""What one request makes of the experts: its share of the counts, and room for other programs where memory runs short."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlx_qnext.experts.memory import available_bytes, peak_bytes
from mlx_qnext.experts.plan import MemoryPlan
from mlx_qnext.experts.pool import Counts
from mlx_qnext.experts.store import ExpertStore
from mlx_qnext.generate.events import ExpertActivity, ExpertStats, MemoryStats, Notice
from mlx_qnext.model.qwen3_next import Model

# With less than this left to the machine, pools shrink by a share of their slots, again and again until there is more.
_FLOOR_BYTES = 400_000_000
_GIVEN_BACK = 0.25
# Asking the machine takes a fraction of a millisecond.
_ASK_EVERY_STEPS = 8


@dataclass
class ExpertsInUse:
    """The experts of one model while a request runs."""

    store: ExpertStore
    plan: MemoryPlan
    model: Model
    _before: Counts = field(init=False)
    _before_decoding: Counts = field(init=False)
    _told_bytes: int = field(init=False, default=0)
    _steps: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._before = self._before_decoding = self.store.counts

    def decoding_begins(self) -> None:
        """The prompt has been read."""
        self._before_decoding = self.store.counts

    @property
    def decoding_hit_rate(self) -> float:
        """The share of experts that were in memory when decoding asked for them; 1 where it asked for none."""
        now, before = self.store.counts, self._before_decoding
        hits, misses = now.hits - before.hits, now.misses - before.misses
        return hits / (hits + misses) if hits + misses else 1.0

    def stats(self) -> ExpertStats | None:
        """The request's figures so far; `None` for a model without experts."""
        if not self.store.pools:
            return None
        now, before = self.store.counts, self._before
        return ExpertStats(
            hits=now.hits - before.hits,
            misses=now.misses - before.misses,
            read_bytes=now.read_bytes - before.read_bytes,
            evicted=now.evicted - before.evicted,
            resident_bytes=self.store.resident_bytes,
            total_bytes=self.store.total_bytes,
        )

    def activity(self) -> ExpertActivity | None:
        """The figures, where experts have been read since they were last told."""
        stats = self.stats()
        if stats is None or stats.read_bytes == self._told_bytes:
            return None
        self._told_bytes = stats.read_bytes
        return ExpertActivity(stats)

    def memory(self) -> MemoryStats:
        """What was planned, and what the process has taken."""
        return MemoryStats(self.plan.total_bytes, peak_bytes())

    def relieve(self) -> Notice | None:
        """Between two steps: where the machine runs short of memory, give back some of the experts' and say so."""
        self._steps += 1
        if self._steps % _ASK_EVERY_STEPS or not self.store.pools or available_bytes() >= _FLOOR_BYTES:
            return None
        self.model.model.release()
        freed = self.store.shrink(_GIVEN_BACK, self.model.config.num_experts_per_tok)
        if not freed:
            return None
        return Notice(
            f"The machine runs short of memory, so {freed / 1e9:.1f} GB of experts were given back: close other programs, or "
            "start again with a smaller --memory."
        )
