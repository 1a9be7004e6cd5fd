"""Prefetching by early routing, simulated: what a guess made one layer ahead brings into LRU pools, and what time it takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from lru_simulation import Lru, Pool
from routing_trace import Trace


@dataclass(frozen=True)
class Fetched:
    """What was read for answers, `[tokens, L]` each, in experts.

    Attributes:
        misses: read on demand. fetched: read on a guess. useful: those of the fetched that the token then visited.
    """

    misses: np.ndarray
    fetched: np.ndarray
    useful: np.ndarray


def prefetched(trace: Trace, slots: int, width: int) -> Fetched:
    """LRU pools of so many slots, into each of which (but the first layer's) `width` guesses are read before it is visited.

    Guesses are those made before the experts of the layer before: later ones leave no time to read.
    """
    layers = [_layer(trace, layer, slots, width if layer else 0) for layer in range(trace.layers)]
    return Fetched(*np.stack(layers, axis=-1))


def _layer(trace: Trace, layer: int, slots: int, width: int) -> np.ndarray:
    """Misses, fetched and useful, `[3, tokens]`."""
    pool = Pool(slots, Lru(trace.experts))
    counts = []
    for text in trace.texts:
        pool.visit(text.chosen[: text.prompt, layer])
        for chosen, guess in zip(text.chosen[text.prompt :, layer], text.early[text.prompt :, layer, :width]):
            fetched = pool.fetch(guess)
            useful = np.isin(fetched, chosen).sum()
            counts.append((pool.visit(chosen[None]), len(fetched), useful))
    return np.array(counts).T


def decode_time(run: Fetched, read: float) -> float:
    """Time to decode everything, where a layer computes for 1 and an expert is read for `read`, one after the other.

    The mixer takes half of a layer's time, the experts the other half. What a layer misses is read first, beside the
    computation of what it has; then what is guessed for the next layer. A layer waits for all that was guessed for it if it
    needs any of that.
    """
    now = reader = guesses_there = 0.0
    last = run.misses.shape[1] - 1
    for misses, fetched, useful in zip(run.misses, run.fetched, run.useful):
        for layer in range(last + 1):
            now += 0.5
            there = guesses_there if useful[layer] else now
            if misses[layer]:
                there = reader = max(reader, now) + read * misses[layer]
            if layer < last:
                guesses_there = reader = max(reader, now) + read * fetched[layer + 1]
            now = max(now + 0.5, there)
    return now
