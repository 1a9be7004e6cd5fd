"""Attention in plain products is MLX's own, whatever the lengths and head counts."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from tolerances import CONTINUED

from mlx_qnext.ops.attention import attention, few_causal_queries


@pytest.mark.parametrize(("T", "S"), [(1, 1), (2, 2), (5, 5), (2, 37), (5, 300), (8, 63)])
@pytest.mark.parametrize(("heads", "key_heads", "D"), [(4, 2, 64), (16, 2, 32), (3, 3, 16)])
def test_few_causal_queries_see_what_mlx_lets_them_see(
    T: int, S: int, heads: int, key_heads: int, D: int
) -> None:
    keys = mx.random.split(mx.random.key(T * S), 3)
    shapes = ((2, heads, T, D), (2, key_heads, S, D), (2, key_heads, S, D))
    q, k, v = (mx.random.normal(shape, key=key) for shape, key in zip(shapes, keys, strict=True))
    expected = attention(q, k, v, "causal" if T > 1 else None, None)
    CONTINUED.check(np.array(few_causal_queries(q, k, v)), np.array(expected))
