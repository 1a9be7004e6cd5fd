"""Experts that are read when they are routed to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_qnext.experts.pool import Pool
from mlx_qnext.experts.visits import Wave
from mlx_qnext.model.linear import ExpertLinear, Few
from mlx_qnext.model.moe import SORT_FROM_ROWS, Experts


@dataclass(frozen=True)
class Visited:
    """The outputs of many visits, in the order they were computed in.

    Attributes:
        outputs: `[T K, D]`. row_of: where each visit's is, `[T, K]`.
    """

    outputs: mx.array
    row_of: np.ndarray

    def of_tokens(self, start: int, end: int) -> mx.array:
        """The visits of some of the tokens, `[end - start, K, D]`."""
        return self.outputs[_indices(self.row_of[start:end])]


class PooledExperts(Experts):
    """The experts of a pool. Until that is complete, a visit waits for the router and is computed in waves.

    Each visit's output is the same number by number as that of experts that are all in memory, whatever had to be read for it.
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool.gate_up(), pool.down())
        self._pool = pool
        pool.on_replaced = self._bind

    @property
    def complete(self) -> bool:
        """Whether every expert is in memory, so that visiting them is a pure function."""
        return self._pool.complete

    def __call__(self, x: mx.array, experts: mx.array, certain: int | None = None) -> mx.array:
        """`x` `[B, T, D]`, `experts` `[B, T, K]` → each visit's output `[B, T, K, D]`.

        Raises:
            CheckpointError: an expert cannot be read.
        """
        if self.complete:
            return super().__call__(x, experts)
        ids = np.array(experts).reshape(-1, experts.shape[-1])
        rows = x.reshape(-1, x.shape[-1])
        outputs, visits = zip(*self._outputs(rows, ids, certain), strict=True)
        y = outputs[0] if len(outputs) == 1 else mx.concatenate(list(outputs))
        order = np.concatenate(visits)
        if (order[:-1] > order[1:]).any():
            y = y[_indices(np.argsort(order))]
        return y.reshape(*experts.shape, x.shape[-1])

    def visit_all(self, x: mx.array, experts: mx.array) -> Visited:
        """As a call, for many tokens: `x` `[T, D]`, `experts` `[T, K]`. Each expert is read at most once.

        Raises:
            CheckpointError: an expert cannot be read.
        """
        ids = np.array(experts)
        outputs = mx.zeros((ids.size, x.shape[-1]), dtype=x.dtype)
        row_of, done = np.empty(ids.size, np.int64), 0
        for output, visits in self._outputs(x, ids, None):
            outputs[done : done + len(visits)] = output
            mx.async_eval(outputs)
            row_of[visits] = np.arange(done, done + len(visits))
            done += len(visits)
        self._pool.finish()
        return Visited(outputs, row_of.reshape(ids.shape))

    def promote(self, count: int) -> None:
        """Of the tokens of the last visit that were not certain, count the first ones' experts as used."""
        if not self.complete:
            self._pool.promote(count)

    def _outputs(
        self, rows: mx.array, ids: np.ndarray, certain: int | None
    ) -> Iterator[tuple[mx.array, np.ndarray]]:
        """Outputs `[n, D]`, each already being computed, and which of the visits they are."""
        for wave in self._pool.serve(ids, certain):
            output = self._visit_wave(rows[_indices(wave.visits // ids.shape[-1])], wave)
            self._pool.using(wave.slots, output)
            yield output, wave.visits

    def _visit_wave(self, rows: mx.array, wave: Wave) -> mx.array:
        slots = _indices(wave.slots)
        if len(wave.slots) < SORT_FROM_ROWS:
            return self._visit(rows[:, None], slots, in_order=False)[:, 0]
        distinct, index = np.unique(wave.slots, return_inverse=True)
        return self._visit(rows[:, None], slots, in_order=True, few=Few(_indices(distinct), _indices(index)))[
            :, 0
        ]

    def _bind(self) -> None:
        self.gate_up = [ExpertLinear(part) for part in self._pool.gate_up()]
        self.down = ExpertLinear(self._pool.down())


def _indices(values: np.ndarray) -> mx.array:
    return mx.array(values.astype(np.uint32))
