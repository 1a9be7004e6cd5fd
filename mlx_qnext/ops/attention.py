"""Attention over a cache of keys and values, in the form that suits the device and the lengths.

Shapes: q `[B, H, T, D]`; k, v `[B, Hk, S, D]` with the T last of S positions being the queries' own; `H` is a multiple of `Hk`.
From a quantised cache k and v come as triples: packed integers, scales and biases, each `[B, Hk, S, …]`.

Heads of 256 channels have no fused kernel for many queries on CPU and CUDA, and none that MLX chooses by itself on Metal: their
scores are held. So many queries go in blocks, one after another, and nothing grows with T × S.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import mlx.core as mx

from mlx_qnext.mlx_lm_parts import scaled_dot_product_attention
from mlx_qnext.ops.device import Backend, backend

Stored: TypeAlias = mx.array | Sequence[mx.array]
Mask: TypeAlias = mx.array | str | None

MOST_SCORE_BYTES = 1 << 28
"""What the scores of a block of queries take at most, unless one query's take more; the plain form of quantised keys and
values likewise, unless one head's take more."""

# For several queries MLX's CUDA back end builds a cuDNN plan for every new S where a head has up to 128 channels: 62 ms each
# time, where plain products take 0.3. Longer inputs come rarely enough to be worth the plan. Up to as many queries are
# multiplied with quantised keys and values as they are stored; for more, unpacking them first costs less.
_FEW_QUERIES = 8


class Packing(Protocol):
    """How keys and values are quantised, as their cache says."""

    group_size: int | None
    bits: int | None


def attention(q: mx.array, k: Stored, v: Stored, mask: Mask, cache: Packing | None) -> mx.array:
    """softmax(q kᵀ / √D) v under `mask`, `[B, H, T, D]`; "causal" lets a query see positions up to its own.

    A mask in an array is one for all heads.
    """
    if isinstance(k, mx.array) and isinstance(v, mx.array):
        return _over_plain(q, k, v, mask)
    # MLX 0.32.4's CUDA back end gets these packed products wrong, and takes a minute to compile them.
    if q.shape[2] <= _FEW_QUERIES and backend() is not Backend.CUDA:
        # mlx-lm scales the queries in the array object that it is given.
        own = mx.array(q)
        return scaled_dot_product_attention(own, k, v, cache=cache, scale=q.shape[-1] ** -0.5, mask=mask)
    assert cache is not None
    return _over_unpacked(q, k, v, mask, cache)


def _over_plain(q: mx.array, k: mx.array, v: mx.array, mask: Mask) -> mx.array:
    T = q.shape[2]
    if backend() is Backend.CUDA and isinstance(mask, str) and T <= _FEW_QUERIES:
        return products(q, k, v, mask)
    rows = _queries_at_once(q, k.shape[2])
    if rows >= T:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)
    blocks = []
    for start in range(0, T, rows):
        blocks.append(_block(q, k, v, mask, start, min(start + rows, T)))
        # Before the next one is begun, or all of their scores could be alive at once.
        mx.eval(blocks[-1])
    return mx.concatenate(blocks, axis=2)


def _queries_at_once(q: mx.array, keys: int) -> int:
    B, H = q.shape[:2]
    return max(1, MOST_SCORE_BYTES // (B * H * keys * q.itemsize))


def _block(q: mx.array, k: mx.array, v: mx.array, mask: Mask, start: int, stop: int) -> mx.array:
    """What queries `start` to `stop` see; of keys and values only what a causal mask lets them see is read."""
    T, S = q.shape[2], k.shape[2]
    if isinstance(mask, str):
        seen = S - T + stop
        k, v = k[:, :, :seen], v[:, :, :seen]
    elif mask is not None and mask.shape[-2] == T:
        mask = mask[..., start:stop, :]
    return products(q[:, :, start:stop], k, v, mask)


def _over_unpacked(q: mx.array, k: Stored, v: Stored, mask: Mask, cache: Packing) -> mx.array:
    """Attention over quantised keys and values; of long ones, only some heads are there in plain form at once."""
    B, Hk, S, _ = k[0].shape
    sharing = q.shape[1] // Hk
    step = max(1, MOST_SCORE_BYTES // (2 * B * S * q.shape[-1] * q.itemsize))
    outputs = []
    for start in range(0, Hk, step):
        heads = slice(start, start + step)
        queries = q[:, sharing * start : sharing * (start + step)]
        outputs.append(_over_plain(queries, _unpacked(k, heads, cache), _unpacked(v, heads, cache), mask))
        if step < Hk:
            mx.eval(outputs[-1])
    return mx.concatenate(outputs, axis=1)


def _unpacked(stored: Stored, heads: slice, cache: Packing) -> mx.array:
    packed, scales, biases = (part[:, heads] for part in stored)
    return mx.dequantize(packed, scales, biases, group_size=cache.group_size, bits=cache.bits)


def products(q: mx.array, k: mx.array, v: mx.array, mask: Mask) -> mx.array:
    """Attention as plain products, with the softmax in fp32; scores `[B, H, T, S]` are held."""
    T, Hk = q.shape[2], k.shape[1]
    # All queries that read one key head are rows of one matrix.
    rows = mx.unflatten(q * q.shape[-1] ** -0.5, 1, (Hk, -1)).flatten(2, 3)
    scores = _masked(mx.unflatten(rows @ k.swapaxes(-1, -2), 2, (-1, T)), mask)
    weights = mx.softmax(scores, axis=-1, precise=True)
    return mx.unflatten(weights.flatten(2, 3) @ v, 2, (-1, T)).flatten(1, 2)


def _masked(scores: mx.array, mask: Mask) -> mx.array:
    """Scores `[B, Hk, H / Hk, T, S]` under a mask."""
    if mask is None:
        return scores
    if isinstance(mask, str):
        T, S = scores.shape[-2:]
        mask = mx.arange(S) <= mx.arange(S - T, S)[:, None]
    elif mask.ndim == 4:
        mask = mask[:, :, None]
    return mx.where(mask, scores, -mx.inf) if mask.dtype == mx.bool_ else scores + mask
