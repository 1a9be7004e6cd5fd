"""Who visits whom in one pass through a layer, and the parts in which that is computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Wave:
    """A part of a visit that can be computed now.

    Attributes:
        visits: indices into the flattened ids that were asked for. slots: of their experts.
    """

    visits: np.ndarray
    slots: np.ndarray


class Visits:
    """Who visits whom: the flattened ids of `[T, K]`, by expert.

    Attributes:
        experts: that are visited, ascending. counts: visits of every expert.
    """

    def __init__(self, ids: np.ndarray, experts: int) -> None:
        flat = ids.reshape(-1)
        self._flat = flat
        self.counts = np.bincount(flat, minlength=experts)
        self.experts = np.flatnonzero(self.counts)

    def busiest_last(self, experts: np.ndarray) -> np.ndarray:
        """The experts by their visits, ascending."""
        return experts[np.argsort(self.counts[experts], kind="stable")]

    def wave(self, experts: np.ndarray, slots: np.ndarray) -> Wave:
        """All visits of the experts, in the order of their slots."""
        order = np.argsort(slots)
        counts = self.counts[experts[order]]
        by_expert, ends = self._by_expert
        visits = [by_expert[ends[e] - self.counts[e] : ends[e]] for e in experts[order]]
        return Wave(np.concatenate(visits), np.repeat(slots[order], counts))

    @cached_property
    def _by_expert(self) -> tuple[np.ndarray, np.ndarray]:
        """All visits in the order of their experts, and where each expert's end."""
        return np.argsort(self._flat, kind="stable"), np.cumsum(self.counts)
