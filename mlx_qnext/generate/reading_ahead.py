"""Reads what the next prompt will begin with, while nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import mlx.core as mx

from mlx_qnext.experts.plan import MemoryPlan
from mlx_qnext.generate.drafter import Drafter
from mlx_qnext.generate.prefill import prefill
from mlx_qnext.generate.timeline import Timeline
from mlx_qnext.model.qwen3_next import Model
from mlx_qnext.ops.device import Backend, backend

# Where all experts are in memory. What is cancelled within a span is read again; longer ones are read faster.
_SPAN_TOKENS = {Backend.CPU: 64, Backend.METAL: 256, Backend.CUDA: 256}


@dataclass(frozen=True)
class ReadingAhead:
    """A timeline that is read ahead of its next request; `drafter` follows it where there is one."""

    model: Model
    timeline: Timeline
    plan: MemoryPlan
    drafter: Drafter | None

    def read(self, tokens: Sequence[int], cancelled: threading.Event) -> int:
        """Bring `tokens` into the cache, until `cancelled` is set; returns how many of them were not there before.

        It ends after the layer at hand, because whoever cancels it waits. The position is remembered where all was read.

        Raises:
            CheckpointError: an expert cannot be read; the timeline is at a position that it remembers.
        """
        if cancelled.is_set():
            return 0
        held = self.timeline.reuse(tokens, drafting=self.drafter is not None)
        try:
            steps = prefill(
                self.model,
                self.timeline,
                tokens,
                marks=self.timeline.checkpoints.marks,
                drafter=self.drafter,
                chunk_tokens=self.plan.chunk_tokens,
                span_tokens=_SPAN_TOKENS[backend()] if self.model.complete else self.plan.span_tokens,
                layerwise=True,
            )
            with closing(steps):
                for _ in steps:
                    if cancelled.is_set():
                        break
        except BaseException:
            self.timeline.restore()
            raise
        finally:
            # Room for keys and values too, which is made even where nothing is read: what one thread leaves unevaluated no
            # other can evaluate.
            mx.eval(self.timeline.cache.arrays())
        return self.timeline.cache.position - held
