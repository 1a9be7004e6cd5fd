"""Every form of the gated delta rule computes equation 10, on awkward lengths, heads, decays, keys and masks."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from delta_inputs import Inputs, random_inputs, unit
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.gated_delta import gated_delta_reference
from tolerances import CHUNKED_FP32, RECURRENT_FP32, Tolerance

from mlx_qnext.ops.gated_delta import chunked, gated_delta, recurrent

LENGTHS = [1, 2, 3, 15, 16, 17, 63, 64, 65, 75, 130, 500]
FORMS = {"recurrent": recurrent, "chunked": chunked, "gated_delta": gated_delta}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
Form = Callable[..., tuple[mx.array, mx.array]]


def run(form: Form, inputs: Inputs, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    y, state = form(*map(mx.array, inputs), mask if mask is None else mx.array(mask))
    assert state.dtype == mx.float32
    return np.array(y), np.array(state)


def tolerance(form: Form) -> Tolerance:
    return RECURRENT_FP32 if form is recurrent else CHUNKED_FP32


def check(form: Form, inputs: Inputs, mask: np.ndarray | None = None) -> None:
    """Output (where not padding) and state are finite and within the form's tolerance of the fp64 reference."""
    y, state = run(form, inputs, mask)
    expected_y, expected_state = gated_delta_reference(*inputs, mask)
    seen = np.ones(y.shape[:2], bool) if mask is None else mask
    tolerance(form).check(np.where(seen[..., None, None], y, 0), expected_y, "y")
    tolerance(form).check(state, expected_state, "state")


@each_form
@pytest.mark.parametrize("tokens", LENGTHS)
def test_awkward_lengths(form: Form, tokens: int) -> None:
    check(form, random_inputs(tokens))


@each_form
@pytest.mark.parametrize(
    ("key_heads", "group", "key_dim", "value_dim"),
    [(1, 1, 8, 8), (3, 1, 4, 10), (1, 3, 12, 5), (2, 4, 16, 1), (5, 2, 1, 3), (2, 2, 64, 64)],
)
def test_uneven_heads_and_dimensions(
    form: Form, key_heads: int, group: int, key_dim: int, value_dim: int
) -> None:
    check(form, random_inputs(75, 1, key_heads, group, key_dim, value_dim))


@each_form
@pytest.mark.parametrize("tokens", [1, 17, 130])
def test_state_that_starts_at_zero(form: Form, tokens: int) -> None:
    inputs = random_inputs(tokens)
    check(form, inputs._replace(state=np.zeros_like(inputs.state)))


@pytest.mark.parametrize("tokens", [1, 130])
def test_no_state_means_a_zero_state(tokens: int) -> None:
    inputs = random_inputs(tokens)
    y, state = gated_delta(*map(mx.array, inputs[:5]))
    expected_y, expected_state = run(gated_delta, inputs._replace(state=np.zeros_like(inputs.state)))
    np.testing.assert_array_equal(np.array(y), expected_y)
    np.testing.assert_array_equal(np.array(state), expected_state)


@each_form
@pytest.mark.parametrize("spread", [0.0, 1e-3, 0.1])
@pytest.mark.parametrize("tokens", [16, 65, 500])
def test_keys_that_are_nearly_equal_and_beta_near_one(form: Form, tokens: int, spread: float) -> None:
    inputs = random_inputs(tokens, key_dim=16)
    k = unit(inputs.k[:, :1] + spread * inputs.k).astype(np.float32)
    beta = np.full_like(inputs.beta, 0.999)
    check(form, inputs._replace(k=k, beta=beta, log_decay=inputs.log_decay * 1e-3))


@each_form
@pytest.mark.parametrize("tokens", [17, 65, 500])
def test_keys_that_alternate_in_sign(form: Form, tokens: int) -> None:
    inputs = random_inputs(tokens)
    sign = np.where(np.arange(tokens) % 2, 1, -1)[None, :, None, None]
    k = unit(inputs.k[:, :1] + 1e-2 * inputs.k) * sign
    check(form, inputs._replace(k=k.astype(np.float32), beta=np.ones_like(inputs.beta)))


@each_form
@pytest.mark.parametrize("log_decay", [0.0, -1e-4, -5.0, -20.0, -50.0, -1e4])
@pytest.mark.parametrize("tokens", [2, 65, 130])
def test_the_same_decay_at_every_token(form: Form, tokens: int, log_decay: float) -> None:
    inputs = random_inputs(tokens)
    check(form, inputs._replace(log_decay=np.full_like(inputs.log_decay, log_decay)))


@each_form
@pytest.mark.parametrize("tokens", [15, 65, 130, 500])
def test_weak_decay_among_strong(form: Form, tokens: int) -> None:
    inputs = random_inputs(tokens)
    rng = np.random.default_rng(1)
    strong = rng.uniform(size=inputs.log_decay.shape) < 0.5
    log_decay = np.where(strong, rng.uniform(-50, -5, strong.shape), 0.1 * inputs.log_decay)
    check(form, inputs._replace(log_decay=log_decay.astype(np.float32)))


@each_form
@pytest.mark.parametrize("tokens", [3, 64, 75, 130])
@pytest.mark.parametrize("side", ["left", "right", "both", "all", "holes"])
def test_padding_leaves_the_state_alone(form: Form, tokens: int, side: str) -> None:
    mask = np.ones((2, tokens), bool)
    padding = max(1, tokens // 3)
    if side in ("left", "both"):
        mask[0, :padding] = False
    if side in ("right", "both"):
        mask[1, tokens - padding :] = False
    if side == "all":
        mask[0] = False
    if side == "holes":
        mask = np.random.default_rng(2).uniform(size=mask.shape) < 0.6
    check(form, random_inputs(tokens), mask=mask)


@each_form
def test_padding_may_hold_anything_finite(form: Form) -> None:
    inputs = random_inputs(75)
    mask = np.ones((2, 75), bool)
    mask[:, :20] = mask[:, -9:] = False
    padding = ~mask[..., None]
    wild = inputs._replace(
        q=np.where(padding[..., None], 1e3, inputs.q).astype(np.float32),
        v=np.where(padding[..., None], -1e4, inputs.v).astype(np.float32),
        beta=np.where(padding, 7.0, inputs.beta).astype(np.float32),
        log_decay=np.where(padding, -30.0, inputs.log_decay).astype(np.float32),
    )
    y, state = run(form, wild, mask)
    expected_y, expected_state = gated_delta_reference(*inputs, mask)
    tolerance(form).check(y[mask], expected_y[mask], "y")
    tolerance(form).check(state, expected_state, "state")


@each_form
@pytest.mark.parametrize("cut", [1, 7, 8, 9, 16, 63, 64, 65, 100, 129])
def test_a_sequence_split_anywhere_gives_what_the_whole_gives(form: Form, cut: int) -> None:
    inputs = random_inputs(130)
    first_y, state = run(form, inputs.tokens(0, cut))
    second_y, state = run(form, inputs.tokens(cut, 130)._replace(state=state))
    whole_y, whole_state = gated_delta_reference(*inputs)
    tolerance(form).check(np.concatenate([first_y, second_y], axis=1), whole_y, "y")
    tolerance(form).check(state, whole_state, "state")


@each_form
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_output_has_the_values_dtype_and_state_stays_fp32(form: Form, dtype: mx.Dtype) -> None:
    q, k, v, log_decay, beta, state = map(mx.array, random_inputs(20))
    q, k, v, beta = (x.astype(dtype) for x in (q, k, v, beta))
    y, state = form(q, k, v, log_decay, beta, state)
    assert y.dtype == dtype
    assert state.dtype == mx.float32


@each_form
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_random_small_shapes(form: Form, data: st.DataObject) -> None:
    size = st.integers(1, 5)
    tokens = data.draw(st.integers(1, 40), "tokens")
    batch, key_heads, group, key_dim, value_dim = (data.draw(size) for _ in range(5))
    seed = data.draw(st.integers(0, 2**32 - 1), "seed")
    inputs = random_inputs(tokens, batch, key_heads, group, key_dim, value_dim, seed)
    strength = data.draw(st.sampled_from([0.0, 0.01, 1.0, 10.0]), "decay")
    mask = np.random.default_rng(seed).uniform(size=(batch, tokens)) < data.draw(
        st.sampled_from([0.0, 0.5, 1.0]), "kept"
    )
    check(form, inputs._replace(log_decay=inputs.log_decay * np.float32(strength)), mask)


@each_form
@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(2, 70), cut=st.integers(1, 69), seed=st.integers(0, 2**32 - 1))
def test_any_cut_of_any_length_carries_the_state(form: Form, tokens: int, cut: int, seed: int) -> None:
    cut = min(cut, tokens - 1)
    inputs = random_inputs(tokens, 1, 1, 2, 4, 3, seed)
    first_y, state = run(form, inputs.tokens(0, cut))
    second_y, state = run(form, inputs.tokens(cut, tokens)._replace(state=state))
    whole_y, whole_state = gated_delta_reference(*inputs)
    tolerance(form).check(np.concatenate([first_y, second_y], axis=1), whole_y, "y")
    tolerance(form).check(state, whole_state, "state")
