"""Attention is MLX's own whatever the lengths and head counts, and what it holds does not grow with T × S."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from tolerances import CONTINUED, QUANTIZED_VS_DEQUANTIZED

from mlx_qnext.cache.kv import GrowingCache, kv_cache
from mlx_qnext.ops import attention as op
from mlx_qnext.ops.attention import attention, products

Inputs = tuple[mx.array, mx.array, mx.array]


def inputs(T: int, S: int, heads: int, key_heads: int, D: int, batch: int = 2) -> Inputs:
    keys = mx.random.split(mx.random.key(T * S), 3)
    shapes = ((batch, heads, T, D), (batch, key_heads, S, D), (batch, key_heads, S, D))
    q, k, v = (mx.random.normal(shape, key=key) for shape, key in zip(shapes, keys, strict=True))
    return q, k, v


def whole(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | str | None) -> np.ndarray:
    """MLX's own, in one go."""
    return np.array(mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask))


def peak_bytes(q: mx.array, k: mx.array, v: mx.array, cache: GrowingCache | None = None) -> int:
    """What attention takes beyond its inputs."""
    mx.eval(q, k, v)
    mx.synchronize()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(attention(q, k, v, "causal", cache))
    mx.synchronize()
    return mx.get_peak_memory() - before


@pytest.mark.parametrize(("T", "S"), [(1, 1), (2, 2), (5, 5), (2, 37), (5, 300), (8, 63)])
@pytest.mark.parametrize(("heads", "key_heads", "D"), [(4, 2, 64), (16, 2, 32), (3, 3, 16)])
def test_queries_in_plain_products_see_what_mlx_lets_them_see(
    T: int, S: int, heads: int, key_heads: int, D: int
) -> None:
    q, k, v = inputs(T, S, heads, key_heads, D)
    expected = whole(q, k, v, "causal" if T > 1 else None)
    CONTINUED.check(np.array(products(q, k, v, "causal")), expected)


@pytest.mark.parametrize(("T", "S"), [(9, 9), (40, 40), (33, 150)])
@pytest.mark.parametrize("kind", ["causal", "none", "padded", "added"])
@pytest.mark.parametrize("rows", [1, 7, 32])
def test_blocks_of_queries_see_what_all_of_them_see(
    T: int, S: int, kind: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = inputs(T, S, 4, 2, 16)
    causal = mx.arange(S - T, S)[:, None] >= mx.arange(S)
    padded = causal & (mx.arange(S) >= mx.array([0, 3])[:, None, None, None]) | mx.eye(T, S, S - T).astype(
        mx.bool_
    )
    added = mx.where(causal, 0.0, -1e9)
    mask = {"causal": "causal", "none": None, "padded": padded, "added": added}[kind]
    monkeypatch.setattr(op, "MOST_SCORE_BYTES", rows * 2 * 4 * S * 4)
    CONTINUED.check(np.array(attention(q, k, v, mask, None)), whole(q, k, v, mask))


def test_up_to_the_size_of_a_block_attention_is_mlx_own_to_the_bit() -> None:
    q, k, v = inputs(64, 256, 4, 2, 64)
    assert np.array_equal(np.array(attention(q, k, v, "causal", None)), whole(q, k, v, "causal"))


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_what_attention_holds_does_not_grow_with_queries_times_keys(
    bits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    T, S, limit_bytes = 128, 2048, 1 << 18
    q, k, v = inputs(T, S, 4, 2, 64, batch=1)
    cache = kv_cache(bits)
    held = cache.update_and_fetch(k, v)
    scores_bytes = 4 * T * S * 4
    assert peak_bytes(q, *held, cache) > scores_bytes
    monkeypatch.setattr(op, "MOST_SCORE_BYTES", limit_bytes)
    # Scores and their mask; queries scaled, and the output twice; and of quantised ones, one head's keys and values, which
    # MLX unpacks on the CPU with as much again in between.
    unpacked_bytes = 0 if bits is None else 2 * (2 * S * 64 * 4)
    assert peak_bytes(q, *held, cache) < 1.5 * limit_bytes + 4 * q.nbytes + unpacked_bytes


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("T", [1, 2, 5, 8, 9, 40])
@pytest.mark.parametrize("most_bytes", [1 << 28, 1 << 12], ids=["whole", "blocks"])
def test_attention_over_quantised_keys_is_attention_over_what_they_stand_for(
    bits: int, T: int, most_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = inputs(T, 96, 4, 2, 64)
    given = np.array(q)
    plain = [mx.dequantize(*mx.quantize(x, 64, bits), 64, bits) for x in (k, v)]
    mask = "causal" if T > 1 else None
    monkeypatch.setattr(op, "MOST_SCORE_BYTES", most_bytes)
    cache = kv_cache(bits)
    output = attention(q, *cache.update_and_fetch(k, v), mask, cache)
    QUANTIZED_VS_DEQUANTIZED.check(np.array(output), whole(q, *plain, mask))
    assert np.array_equal(np.array(q), given)
