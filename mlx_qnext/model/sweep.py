"""Layer-major reading: a whole span of tokens goes through one layer before the next one begins.

Where experts have to be fetched, tokens that share a pass share what is read for them. A layer's mixer runs over the span
in chunks, its state carried from one to the next as ever; then all tokens visit the layer's experts in one go, which reads
each at most once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import mlx.core as mx
import numpy as np

from mlx_qnext.mlx_lm_parts import create_attention_mask
from mlx_qnext.model.layers import RecurrentLayer
from mlx_qnext.model.moe import SparseMoe
from mlx_qnext.model.pooled_experts import PooledExperts
from mlx_qnext.model.stretch import Layer
from mlx_qnext.model.trunk import Trunk, recurrent_state, store_state

Watch: TypeAlias = Callable[[int, np.ndarray], None]
States: TypeAlias = tuple[tuple[mx.array, ...], ...]


@dataclass(frozen=True)
class Swept:
    """What a sweep leaves.

    Attributes:
        hidden: states after the final norm, `[1, T, hidden]`.
        marked: each recurrent layer's window and state at each of the marks.
    """

    hidden: mx.array
    marked: dict[int, States]


def sweep(
    trunk: Trunk,
    tokens: Sequence[int],
    cache: Sequence[Any],
    ends: Sequence[int],
    marks: Collection[int] = (),
    watch: Watch | None = None,
) -> Generator[int, None, Swept]:
    """Run `tokens` over the caches in chunks that end at `ends`; after each layer yields how many layers have seen them.

    The caches are of one position again only when it returns; whoever leaves it earlier takes them back. `marks` are those of
    the ends where recurrent states are wanted. `watch` is told of each layer with routed experts, by its index, which of them
    the tokens visit, `[T, K]`.

    Raises:
        CheckpointError: an expert cannot be read.
    """
    bounds = list(pairwise([0, *ends]))
    chunks = [trunk.embed_tokens(mx.array([tokens[a:b]])) for a, b in bounds]
    marked: dict[int, States] = {end: () for end in ends if end in marks}
    for done, (layer, memory) in enumerate(zip(trunk.layers, cache, strict=True), 1):
        for n, end in enumerate(ends):
            chunks[n] = _mix(layer, chunks[n], memory)
            mx.eval(chunks[n], memory.state)
            if end in marked and isinstance(layer, RecurrentLayer):
                marked[end] += (tuple(memory.cache),)
        if watch is not None and isinstance(layer.feed_forward, SparseMoe):
            watch(done - 1, _routes(layer, layer.feed_forward, chunks))
        chunks = _feed(layer, chunks)
        yield done
    return Swept(trunk.norm(mx.concatenate(chunks, axis=1)), marked)


def _mix(layer: Layer, x: mx.array, memory: Any) -> mx.array:
    if isinstance(layer, RecurrentLayer):
        x, state = layer.mix(x, recurrent_state(x, layer, memory))
        store_state(memory, state, x.shape[1])
        return x
    return layer.mix(x, create_attention_mask(x, memory), memory)


def _routes(layer: Layer, moe: SparseMoe, chunks: list[mx.array]) -> np.ndarray:
    ids = [np.array(moe.route(layer.post_norm(x)).experts)[0, :, : moe.top_k] for x in chunks]
    return np.concatenate(ids)


def _feed(layer: Layer, chunks: list[mx.array]) -> list[mx.array]:
    forward = layer.feed_forward
    if isinstance(forward, SparseMoe) and not forward.experts.complete:
        return _visit(layer, forward, chunks)
    fed = []
    for x in chunks:
        fed.append(layer.feed(x))
        mx.eval(fed[-1])
    return fed


def _visit(layer: Layer, moe: SparseMoe, chunks: list[mx.array]) -> list[mx.array]:
    """All chunks' visits in one go, then each chunk's sum."""
    assert isinstance(moe.experts, PooledExperts)
    routed = [moe.route(layer.post_norm(x)) for x in chunks]
    x, ids = (mx.concatenate([getattr(r, name)[0] for r in routed]) for name in ("x", "experts"))
    visited = moe.experts.visit_all(x, ids)
    fed, start = [], 0
    for x, of_chunk in zip(chunks, routed, strict=True):
        visits = visited.of_tokens(start, start + x.shape[1])
        fed.append(x + moe.combine(visits[None], of_chunk))
        mx.eval(fed[-1])
        start += x.shape[1]
    return fed
