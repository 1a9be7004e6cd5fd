"""Who visits whom in one pass through a layer, and the parts in which that is computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Wave:
    """A part of a visit that can be computed now.

    Attributes:
        visits: indices into the flattened ids that were asked for. slots: of their experts, ascending where `in_order`.
    """

    visits: np.ndarray
    slots: np.ndarray
    in_order: bool


class Visits:
    """Who visits whom: the flattened ids of `[T, K]`, by expert.

    Attributes:
        experts: that are visited, ascending. counts: visits of every expert.
    """

    def __init__(self, ids: np.ndarray, experts: int) -> None:
        flat = ids.reshape(-1)
        self.counts = np.bincount(flat, minlength=experts)
        self.experts = np.flatnonzero(self.counts)
        self._by_expert = np.argsort(flat, kind="stable")
        self._ends = np.cumsum(self.counts)

    def busiest_last(self, experts: np.ndarray) -> np.ndarray:
        """The experts by their visits, ascending."""
        return experts[np.argsort(self.counts[experts], kind="stable")]

    def wave(self, experts: np.ndarray, slots: np.ndarray) -> Wave:
        """All visits of the experts, in the order of their slots."""
        order = np.argsort(slots)
        counts = self.counts[experts[order]]
        visits = [self._by_expert[self._ends[e] - self.counts[e] : self._ends[e]] for e in experts[order]]
        return Wave(np.concatenate(visits), np.repeat(slots[order], counts), in_order=True)
