"""Random inputs of the gated delta rule."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Inputs(NamedTuple):
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    log_decay: np.ndarray
    beta: np.ndarray
    state: np.ndarray

    def tokens(self, start: int, end: int) -> Inputs:
        return Inputs(*(x[:, start:end] for x in self[:5]), state=self.state)


def random_inputs(
    tokens: int,
    batch: int = 2,
    key_heads: int = 2,
    group: int = 2,
    key_dim: int = 8,
    value_dim: int = 6,
    seed: int = 0,
) -> Inputs:
    """Unit keys, queries of length Dk ** -0.5, decays from weak to moderate, a state that is not zero."""
    rng = np.random.default_rng(seed)
    q, k = (unit(rng.normal(size=(batch, tokens, key_heads, key_dim))) for _ in range(2))
    heads = key_heads * group
    per_head = (batch, tokens, heads)
    arrays = (
        q * key_dim**-0.5,
        k,
        rng.normal(size=(*per_head, value_dim)),
        -(rng.uniform(0, 1, per_head) ** 3),
        rng.uniform(0, 1, per_head),
        rng.normal(size=(batch, heads, value_dim, key_dim)),
    )
    return Inputs(*(x.astype(np.float32) for x in arrays))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
