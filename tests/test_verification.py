"""A verified prefix leaves the caches, of both kinds, that a plain pass over it leaves."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import CONTINUED_TRAINED

from mlx_qnext import Engine

tokens_lists = st.lists(st.integers(0, 4000), min_size=1, max_size=5)


def run(engine: Engine, *parts: list[int]) -> tuple[list[Any], np.ndarray]:
    """Caches after the parts one after another, and the hidden states of the last part."""
    caches, hidden = engine.model.make_cache(), mx.array(0)
    for part in parts:
        hidden = engine.model.hidden(mx.array([part]), caches)
    return caches, np.array(hidden)


def check_caches(actual: list[Any], expected: list[Any]) -> None:
    """Equal positions, and equal arrays as far as they count."""
    for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
        if hasattr(a, "offset"):
            assert a.offset == b.offset
            pairs = list(zip(a.keys_and_values(), b.keys_and_values(), strict=True))
        else:
            pairs = list(zip(a.cache, b.cache, strict=True))
        for x, y in pairs:
            CONTINUED_TRAINED.check(np.array(x), np.array(y), f"cache of layer {index}")


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(tokens_lists, tokens_lists, st.data())
def test_any_prefix_of_a_verification_is_a_plain_pass_over_it(
    engine: Engine, before: list[int], tokens: list[int], data: st.DataObject
) -> None:
    caches, _ = run(engine, before)
    hidden, verification = engine.model.verify(mx.array([tokens]), caches)
    held = len(tokens)
    # A second, smaller prefix, as where a stop string ends an accepted group.
    for _ in range(2):
        held = data.draw(st.integers(1, held))
        verification.keep(held)
        expected, states = run(engine, before, tokens[:held])
        check_caches(caches, expected)
        CONTINUED_TRAINED.check(np.array(hidden[:, :held]), states, "hidden states")


def test_no_tokens_and_tokens_let_go_cannot_be_kept(engine: Engine) -> None:
    caches, _ = run(engine, [1, 2])
    _, verification = engine.model.verify(mx.array([[3, 4, 5]]), caches)
    verification.keep(2)
    for count in (0, 3):
        with pytest.raises(ValueError, match="cannot keep"):
            verification.keep(count)
