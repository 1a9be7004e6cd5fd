"""After one pass over a few tokens the state of any prefix can be had, and is the reference's."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from delta_inputs import Inputs, random_inputs, unit
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.gated_delta import gated_delta_reference
from tolerances import CHUNKED_FP32

from mlx_qnext.ops.convolution import causal_convolution, window_after
from mlx_qnext.ops.gated_delta_prefixes import gated_delta_recorded, state_after

LENGTHS = [1, 2, 3, 4, 5, 8]


def check(inputs: Inputs) -> None:
    """All outputs, and the state after every prefix."""
    arrays = Inputs(*map(mx.array, inputs))  # pyright: ignore[reportArgumentType]
    y, record = gated_delta_recorded(*arrays)
    for count in range(1, inputs.v.shape[1] + 1):
        expected_y, expected_state = gated_delta_reference(*inputs.tokens(0, count))
        CHUNKED_FP32.check(np.array(y[:, :count]), expected_y, f"y of {count}")
        state = state_after(count, arrays.state, record)
        CHUNKED_FP32.check(np.array(state), expected_state, f"state after {count}")


@pytest.mark.parametrize("tokens", LENGTHS)
def test_every_prefix_of_every_length(tokens: int) -> None:
    check(random_inputs(tokens))


@pytest.mark.parametrize(
    ("key_heads", "group", "key_dim", "value_dim"),
    [(1, 1, 8, 8), (3, 1, 4, 10), (1, 3, 12, 5), (2, 4, 16, 1), (5, 2, 1, 3), (2, 2, 64, 64)],
)
def test_uneven_heads_and_dimensions(key_heads: int, group: int, key_dim: int, value_dim: int) -> None:
    check(random_inputs(5, 1, key_heads, group, key_dim, value_dim))


@pytest.mark.parametrize("spread", [0.0, 1e-3, 0.1])
def test_keys_that_are_nearly_equal_with_beta_one_and_no_decay(spread: float) -> None:
    inputs = random_inputs(8, key_dim=16)
    k = unit(inputs.k[:, :1] + spread * inputs.k)
    check(inputs._replace(k=k, beta=np.ones_like(inputs.beta), log_decay=np.zeros_like(inputs.log_decay)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([0.0, -1e-6, -1e-3, -1.0, -30.0, -1e4]), min_size=5, max_size=5))
def test_decays_of_any_strength_in_any_order(decays: list[float]) -> None:
    inputs = random_inputs(5)
    log_decay = np.broadcast_to(np.array(decays, np.float32)[:, None], (2, 5, 4)).copy()
    check(inputs._replace(log_decay=log_decay))


@pytest.mark.parametrize("tokens", LENGTHS)
def test_the_window_after_a_prefix_is_that_of_the_prefix_alone(tokens: int) -> None:
    x, window, weight = (
        mx.random.normal(shape, key=mx.random.key(n))
        for n, shape in enumerate([(1, tokens, 6), (1, 3, 6), (6, 4)])
    )
    for count in range(1, tokens + 1):
        _, expected = causal_convolution(x[:, :count], window, weight)
        assert mx.array_equal(window_after(count, x, window), expected).item()
