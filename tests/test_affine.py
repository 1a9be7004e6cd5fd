"""What is packed is what MLX unpacks, and it is nearer to the weights than MLX's own packing."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import QUANTIZED_VS_DEQUANTIZED

from mlx_qnext.quantization import BITS, GROUP_SIZES, Precision
from quantize.affine import Packed, quantize_rows
from quantize.bfloat16 import from_bfloat16, to_bfloat16

PRECISIONS = [Precision(bits, group_size) for bits in BITS for group_size in GROUP_SIZES]


def trained(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Weights with heavier tails than a Gaussian's, as trained ones have, in bf16."""
    values = np.random.default_rng(seed).standard_t(5, (rows, columns)).astype(np.float32) * 0.02
    return from_bfloat16(to_bfloat16(values))


def bf16(halves: np.ndarray) -> mx.array:
    return mx.array(halves).view(mx.bfloat16).astype(mx.float32)


def unpacked(packed: Packed, precision: Precision) -> np.ndarray:
    """As MLX unpacks it, in fp32."""
    values = mx.dequantize(
        mx.array(packed.weight),
        bf16(packed.scales),
        bf16(packed.biases),
        group_size=precision.group_size,
        bits=precision.bits,
    )
    return np.array(values)


def mlx_error(weights: np.ndarray, precision: Precision) -> float:
    """The squared error of `mx.quantize`, its scales and biases in bf16 as MLX's converters write them."""
    packing = {"group_size": precision.group_size, "bits": precision.bits}
    weight, scales, biases = mx.quantize(mx.array(weights).astype(mx.bfloat16), **packing)
    values = mx.dequantize(weight, scales.astype(mx.float32), biases.astype(mx.float32), **packing)
    return float(((np.array(values, np.float64) - weights) ** 2).sum())


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_mlx_unpacks_weights_whose_error_is_the_one_reported(precision: Precision) -> None:
    weights = trained(24, 256)
    packed = quantize_rows(weights, precision)
    error = ((unpacked(packed, precision).astype(np.float64) - weights) ** 2).sum()
    QUANTIZED_VS_DEQUANTIZED.check(np.array(packed.squared_error), np.array(error))
    QUANTIZED_VS_DEQUANTIZED.check(
        np.array(packed.squared_sum), np.array((weights.astype(np.float64) ** 2).sum())
    )


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_the_error_is_below_that_of_mlx(precision: Precision) -> None:
    weights = trained(64, 512)
    assert quantize_rows(weights, precision).squared_error < 0.96 * mlx_error(weights, precision)


@pytest.mark.parametrize(("bits", "share"), [(3, 0.82), (4, 0.91), (6, 0.91), (8, 0.60)])
def test_it_is_below_by_so_much_in_groups_of_64(bits: int, share: float) -> None:
    weights, precision = trained(512, 512), Precision(bits, 64)
    assert quantize_rows(weights, precision).squared_error < share * mlx_error(weights, precision)


@given(
    rows=st.integers(1, 9),
    groups=st.integers(1, 5),
    precision=st.sampled_from(PRECISIONS),
    seed=st.integers(0, 1000),
    magnitude=st.sampled_from([1e-30, 1e-6, 1.0, 1e6]),
    offset=st.sampled_from([0.0, 1.0, -100.0]),
)
@settings(max_examples=60, deadline=None)
def test_no_weight_moves_further_than_its_group_is_wide(
    rows: int, groups: int, precision: Precision, seed: int, magnitude: float, offset: float
) -> None:
    weights = (trained(rows, groups * precision.group_size, seed) + np.float32(offset)) * np.float32(
        magnitude
    )
    moved = abs(unpacked(quantize_rows(weights, precision), precision).astype(np.float64) - weights)
    spread = np.ptp(weights.astype(np.float64).reshape(-1, precision.group_size), axis=1)
    largest = abs(weights.astype(np.float64)).reshape(-1, precision.group_size).max(axis=1)
    # A bias in bf16 is off by up to half a unit in its ninth place.
    bound = spread + largest * 2.0**-8
    assert (moved.reshape(-1, precision.group_size).max(axis=1) <= bound).all()


@pytest.mark.parametrize("value", [0.0, 0.25, -3.0, 1e-38])
@pytest.mark.parametrize("bits", BITS)
def test_a_group_of_equal_weights_is_kept_exactly(value: float, bits: int) -> None:
    weights = from_bfloat16(to_bfloat16(np.full((2, 64), value, np.float32)))
    assert (unpacked(quantize_rows(weights, Precision(bits, 64)), Precision(bits, 64)) == weights).all()


def test_rows_are_packed_alike_however_they_are_cut_into_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, precision = trained(40, 256), Precision(4, 64)
    whole = quantize_rows(weights, precision)
    monkeypatch.setattr("quantize.affine._BLOCK_GROUPS", 24)
    parts = [quantize_rows(weights[:7], precision), quantize_rows(weights[7:], precision)]
    for name in ("weight", "scales", "biases"):
        assert (np.concatenate([getattr(part, name) for part in parts]) == getattr(whole, name)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_shows_in_the_sum(value: float) -> None:
    weights = trained(4, 64)
    weights[2, 5] = value
    assert not np.isfinite(quantize_rows(weights, Precision(4, 64)).squared_sum)


def test_a_bf16_is_the_nearest_one_as_mlx_rounds() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 20_000, np.uint32)
    ties = np.arange(0x3F800000, 0x3F900000, 0x8000, np.uint32)
    values = np.concatenate([bits, ties]).view(np.float32)
    values = values[np.isfinite(values)]
    expected = np.array(mx.array(values).astype(mx.bfloat16).astype(mx.float32))
    assert (from_bfloat16(to_bfloat16(values)) == expected).all()


def test_a_bf16_keeps_what_is_not_finite() -> None:
    values = np.array([np.nan, -np.nan, np.inf, -np.inf], np.float32)
    kept = from_bfloat16(to_bfloat16(values))
    assert np.isnan(kept[:2]).all()
    assert (kept[2:] == values[2:]).all()
