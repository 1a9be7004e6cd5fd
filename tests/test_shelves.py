"""Sequences on shelves read what each would read of a cache of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import CONTINUED

from mlx_qnext.cache import shelves as shelves_module
from mlx_qnext.cache.kv import kv_cache
from mlx_qnext.cache.shelves import Shelves, row_entries
from mlx_qnext.mlx_lm_parts import ArraysCache
from mlx_qnext.ops.attention import attention

LAYERS, HEADS, KEY_HEADS, D = (1, 3), 4, 2, 64


class Beside:
    """Sequences on shelves, and beside them each in caches of its own."""

    def __init__(self, bits: int | None, seed: int) -> None:
        self.shelves, self._bits = Shelves(), bits
        self.alone: list[dict[int, Any]] = []
        self._draws = iter(mx.random.split(mx.random.key(seed), 5000))

    def add(self, tokens: int) -> None:
        layers = self._layers()
        self.alone.append({index: kv_cache(self._bits) for index in LAYERS})
        for index in LAYERS:
            k, v = self._entries(1, tokens)
            layers[index].update_and_fetch(k, v)
            self.alone[-1][index].update_and_fetch(k, v)
        self.shelves.add(layers)

    def remove(self, number: int) -> None:
        layers = self._layers()
        self.shelves.remove(number, layers)
        own = self.alone.pop(number)
        for index in LAYERS:
            assert layers[index].offset == own[index].offset
            entries = self._entries(1, 1)
            for part, expected in zip(
                _parts(layers[index].update_and_fetch(*entries)),
                _parts(own[index].update_and_fetch(*entries)),
                strict=True,
            ):
                assert np.array_equal(np.array(part), np.array(expected))

    def step(self) -> None:
        """Every sequence attends to its own, whatever lies beside it."""
        self.shelves.begin_step()
        for index in LAYERS:
            q = self._draw(len(self.alone), HEADS, 1, D)
            k, v = self._entries(len(self.alone), 1)
            attended = []
            for sequences, mask, rows in self.shelves.readings(index):
                asked = (q, k, v) if sequences is None else tuple(x[sequences] for x in (q, k, v))
                held = rows.update_and_fetch(*asked[1:])
                attended.append(attention(asked[0], *held, mask, rows))
            actual = self.shelves.in_order(attended)
            for number, caches in enumerate(self.alone):
                own = slice(number, number + 1)
                held = caches[index].update_and_fetch(k[own], v[own])
                expected = attention(q[own], *held, None, caches[index])
                CONTINUED.check(np.array(actual[own]), np.array(expected))

    def _layers(self) -> list[Any]:
        """Those of an empty sequence."""
        return [layer for _ in LAYERS for layer in (ArraysCache(size=2), kv_cache(self._bits))]

    def _entries(self, batch: int, tokens: int) -> tuple[mx.array, mx.array]:
        k, v = (self._draw(batch, KEY_HEADS, tokens, D) for _ in range(2))
        return k, v

    def _draw(self, *shape: int) -> mx.array:
        return mx.random.normal(shape, key=next(self._draws))


def _parts(held: Sequence[Any]) -> list[mx.array]:
    return [part for each in held for part in ([each] if isinstance(each, mx.array) else each)]


@pytest.fixture
def _short_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few steps fill one."""
    monkeypatch.setattr(shelves_module, "SHORTEST_ROW", 4)


@pytest.mark.usefixtures("_short_rows")
@pytest.mark.parametrize("bits", [None, 8])
def test_sequences_that_come_grow_and_go_read_their_own(bits: int | None) -> None:
    beside = Beside(bits, seed=0)
    for tokens in (3, 1, 9, 4):
        beside.add(tokens)
        beside.step()
    for number in (1, 0):
        for _ in range(4):
            beside.step()
        beside.remove(number)
    beside.step()
    beside.add(2)
    beside.step()


@pytest.mark.slow
@given(
    moves=st.lists(st.tuples(st.sampled_from("adds"), st.integers(1, 20)), min_size=1, max_size=30),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_any_coming_growing_and_going_leaves_each_its_own(moves: list[tuple[str, int]], seed: int) -> None:
    before, shelves_module.SHORTEST_ROW = shelves_module.SHORTEST_ROW, 4
    try:
        beside = Beside(None, seed)
        for move, number in moves:
            if move == "a" or not beside.alone:
                beside.add(number)
            elif move == "d":
                beside.remove(number % len(beside.alone))
            else:
                beside.step()
        if beside.alone:
            beside.step()
    finally:
        shelves_module.SHORTEST_ROW = before


@pytest.mark.parametrize(("tokens", "entries"), [(1, 256), (255, 256), (256, 512), (511, 512), (3000, 4096)])
def test_a_row_has_room_for_another_entry_in_a_power_of_two(tokens: int, entries: int) -> None:
    assert row_entries(tokens) == entries
