"""Attention over a cache of keys and values, in the form that suits the device.

Shapes: q `[B, H, T, D]`; k, v `[B, Hk, S, D]` with the T last of S positions being the queries' own; `H` is a multiple of `Hk`.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_qnext.mlx_lm_parts import KVCache, scaled_dot_product_attention
from mlx_qnext.ops.device import Backend, backend

# For several queries MLX's CUDA back end builds a cuDNN plan for every new S where a head has up to 128 channels: 62 ms each
# time, where these products take 0.3. Longer inputs come rarely enough to be worth the plan.
_FEW_QUERIES = 8


def attention(
    q: mx.array, k: mx.array, v: mx.array, mask: mx.array | str | None, cache: KVCache | None
) -> mx.array:
    """softmax(q kᵀ / √D) v under `mask`, `[B, H, T, D]`; "causal" lets a query see positions up to its own."""
    if backend() is Backend.CUDA and mask == "causal" and q.shape[2] <= _FEW_QUERIES:
        return few_causal_queries(q, k, v)
    return scaled_dot_product_attention(q, k, v, cache=cache, scale=q.shape[-1] ** -0.5, mask=mask)


def few_causal_queries(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """Causal attention as plain products, with the softmax in fp32; scores `[B, H, T, S]` are held."""
    T, S, Hk = q.shape[2], k.shape[2], k.shape[1]
    # All queries that read one key head are rows of one matrix.
    rows = mx.unflatten(q * q.shape[-1] ** -0.5, 1, (Hk, -1)).flatten(2, 3)
    scores = mx.unflatten((rows @ k.swapaxes(-1, -2)).astype(mx.float32), 2, (-1, T))
    seen = mx.arange(S) <= mx.arange(S - T, S)[:, None]
    weights = mx.softmax(mx.where(seen, scores, -mx.inf), axis=-1).astype(v.dtype)
    return mx.unflatten(weights.flatten(2, 3) @ v, 2, (-1, T)).flatten(1, 2)
