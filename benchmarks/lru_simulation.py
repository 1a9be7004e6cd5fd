"""Slots for experts, simulated: what hits, what is read, what is given up. One pool is one layer's.

A visit is that of one pass: the experts of all its rows, `[rows, K]`. A decoded token is one row, a prompt is many rows at
once, as in layer-major prefill. Nothing that a visit needs is given up for it, unless it needs more than there are slots.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Lru:
    """Least recently used first; of experts used in the same pass, those with the fewest rows first.

    To begin with the `hottest` count as used last, the first of them most recently; by default expert 0 is.
    """

    def __init__(self, experts: int, hottest: np.ndarray | None = None) -> None:
        self.scores = np.empty(experts)
        self.scores[np.arange(experts) if hottest is None else hottest] = -np.arange(experts)

    def use(self, counts: np.ndarray, rows: int) -> None:  # noqa: ARG002
        """Experts were visited by so many of the rows."""
        used = np.flatnonzero(counts)
        busiest_last = used[np.argsort(counts[used], kind="stable")]
        self.scores[busiest_last] = self.scores.max() + 1 + np.arange(len(used))


class Lfu:
    """Fewest visits first; each visit counts `decay` times what one a token later does."""

    def __init__(self, experts: int, decay: float = 1.0) -> None:
        self.scores, self._decay = np.zeros(experts), decay

    def use(self, counts: np.ndarray, rows: int) -> None:
        """Experts were visited by so many of the rows."""
        self.scores = self.scores * self._decay**rows + counts


class Belady:
    """The one whose next visit is furthest away first, which needs the future (Belady 1966).

    Taken for the bound, although the proof is for visits of one expert each.
    """

    def __init__(self, experts: int, visits: Sequence[np.ndarray]) -> None:
        self._next = np.full((len(visits) + 1, experts), len(visits))
        for at in range(len(visits) - 1, -1, -1):
            self._next[at] = self._next[at + 1]
            self._next[at, visits[at].reshape(-1)] = at
        self._done = 0
        self.scores = -self._next[0].astype(float)

    def use(self, counts: np.ndarray, rows: int) -> None:  # noqa: ARG002
        """A visit is over."""
        self._done += 1
        self.scores = -self._next[self._done].astype(float)


Policy = Lru | Lfu | Belady


class Pool:
    """The slots of one layer; full to begin with, of what the policy thinks most of, or `empty`."""

    def __init__(self, slots: int, policy: Policy, *, empty: bool = False) -> None:
        self.slots, self.policy = slots, policy
        self.present = np.zeros(len(policy.scores), bool)
        if not empty:
            self.present[np.argsort(-policy.scores, kind="stable")[:slots]] = True

    def visit(self, rows: np.ndarray, rejected: np.ndarray | None = None) -> int:
        """Serve the visit; returns how many experts had to be read.

        Experts of `rejected` rows are read with the others, but do not count as used.
        """
        counts = self._counts(rows)
        self.policy.use(counts, len(rows))
        wanted = counts > 0
        if rejected is not None:
            wanted |= self._counts(rejected) > 0
        return int(self._bring(wanted).sum())

    def fetch(self, guess: np.ndarray) -> np.ndarray:
        """Read what of the guess is absent, and return it; until it is visited it is no more worth than before."""
        wanted = np.zeros(len(self.present), bool)
        wanted[guess] = True
        return np.flatnonzero(self._bring(wanted))

    def _counts(self, rows: np.ndarray) -> np.ndarray:
        return np.bincount(rows.reshape(-1), minlength=len(self.present))

    def _bring(self, wanted: np.ndarray) -> np.ndarray:
        """Make what is wanted present; returns which of it was read."""
        read = wanted & ~self.present
        self.present |= wanted
        excess = int(self.present.sum()) - self.slots
        if excess > 0:
            candidates = np.flatnonzero(self.present & ~wanted)
            if len(candidates) < excess:
                candidates = np.flatnonzero(self.present)
            order = np.argsort(self.policy.scores[candidates], kind="stable")
            self.present[candidates[order[:excess]]] = False
        return read


def lru_depths(visits: Sequence[np.ndarray], experts: int) -> list[np.ndarray]:
    """For every visit, how many experts had been used more recently than each that it needs: with more slots than that it hits.

    LRU pools of all sizes are known from one pass, because a smaller one holds a part of what a larger one holds (Mattson et
    al. 1970). They are full to begin with.
    """
    policy = Lru(experts)
    depths = []
    for rows in visits:
        needed = np.unique(rows)
        depths.append((policy.scores[None, :] > policy.scores[needed, None]).sum(axis=1))
        policy.use(np.bincount(rows.reshape(-1), minlength=experts), len(rows))
    return depths
