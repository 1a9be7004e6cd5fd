"""Reads a prompt into the cache, in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx

from mlx_qnext.generate.drafter import Drafter
from mlx_qnext.generate.timeline import Timeline
from mlx_qnext.model.qwen3_next import Model
from mlx_qnext.ops.device import Backend, backend

# A chunk bounds the workspace and is the grain of progress and cancellation. A CPU gains nothing from larger ones.
_CHUNK_TOKENS = {Backend.CPU: 256, Backend.METAL: 2048, Backend.CUDA: 2048}


def prefill(
    model: Model, timeline: Timeline, prompt: Sequence[int], remember_at: int, drafter: Drafter | None = None
) -> Iterator[mx.array]:
    """Run the tokens of `prompt` that the timeline lacks; after each chunk yield its last hidden state `[1, 1, hidden]`.

    A snapshot is remembered at position `remember_at` and at the end. After every yield the cache is evaluated, the drafter's
    part of it too, and the timeline holds exactly what the model has run.
    """
    size = _CHUNK_TOKENS[backend()]
    while (start := timeline.cache.position) < len(prompt):
        end = min(start + size, len(prompt))
        if start < remember_at < end:
            end = remember_at
        chunk = prompt[start:end]
        states = model.hidden(mx.array([chunk]), timeline.cache.layers)
        last = states[:, -1:]
        timeline.append(chunk)
        if drafter is not None:
            drafter.follow(states)
            drafter.catch_up()
        mx.eval(last, timeline.cache.arrays())
        if end in (remember_at, len(prompt)):
            timeline.remember()
        yield last
    # What a prompt needed is far more than decoding will. CUDA's allocator takes minutes to get it back for the next prompt.
    if backend() is not Backend.CUDA:
        mx.clear_cache()
