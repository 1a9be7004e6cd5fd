"""The gated delta rule over a few tokens of which only a prefix may be kept: what verification needs.

What a token writes into the state depends on nothing that comes after it. So all tokens are run at once, and the state after
any prefix is put together from what the pass recorded: no weight is read for it. Shapes and conventions are those of
`gated_delta.py`; no token is padding here.
"""

from __future__ import annotations

from typing import TypeAlias

import mlx.core as mx

from mlx_qnext.mlx_lm_parts import gated_delta_kernel
from mlx_qnext.ops.device import fused
from mlx_qnext.ops.gated_delta import decay_between, grouped, takes_metal_kernel

# What `state_after` needs besides the state before: on Metal the inputs k, v, log_decay and beta, over which the kernel runs
# again; elsewhere k, what each token writes, and the decays.
Record: TypeAlias = tuple[mx.array, ...]


def gated_delta_recorded(
    q: mx.array, k: mx.array, v: mx.array, log_decay: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, Record]:
    """`gated_delta`'s outputs y `[B, T, Hv, Dv]`, and the record that `state_after` reads; for up to 8 tokens."""
    if takes_metal_kernel(k):
        y, _ = gated_delta_kernel(q, k, v, mx.exp(log_decay), beta, state, None)
        return y, (k, v, log_decay, beta)
    return _at_once(q, k, v, log_decay, beta, state)


def state_after(count: int, state: mx.array, record: Record) -> mx.array:
    """The state `[B, Hv, Dv, Dk]` after the first `count` recorded tokens, at least one, from the one before them."""
    if takes_metal_kernel(record[0]):
        k, v, log_decay, beta = (x[:, :count] for x in record)
        return gated_delta_kernel(k, k, v, mx.exp(log_decay), beta, state, None)[1]
    k, writes, decay, since_start = record
    last = count - 1
    remaining = writes.swapaxes(-1, -2)[..., :count] * decay[..., last, None, :count]
    written = remaining.flatten(2, 3) @ k[:, :, :count]
    return _decayed_sum(state, since_start[..., last, None, None].flatten(1, 2), written.reshape(state.shape))


def _at_once(
    q: mx.array, k: mx.array, v: mx.array, log_decay: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, Record]:
    """One chunk of `gated_delta.chunked` without its padding, and with a series in place of the blocked inverse.

    Value heads stand beside the key head that they share, `[B, Hk, Hv // Hk, …]`; where they meet keys and queries they are
    rows of one matrix, so that each product is one uniform batch.
    """
    T, Hk, dtype = v.shape[1], k.shape[2], v.dtype
    q, k = (x.astype(mx.float32).swapaxes(1, 2) for x in (q, k))
    v, log_decay, beta = (grouped(x.astype(mx.float32).swapaxes(1, 2), Hk) for x in (v, log_decay, beta))
    decay, since_start = decay_between(log_decay), mx.exp(mx.cumsum(log_decay, axis=-1))

    kq = mx.concatenate([k, q], axis=-2)
    products = (kq @ k.swapaxes(-1, -2))[:, :, None]
    readings = kq @ grouped(state, Hk).flatten(2, 3).swapaxes(-1, -2)
    readings = mx.unflatten(readings, -1, (-1, v.shape[-1])).swapaxes(2, 3)
    coupling = _coupling(products[..., :T, :], decay, beta, mx.tri(T, k=-1))
    writes = _solve_unit_lower(coupling, _errors(v, readings[..., :T, :], since_start, beta))
    inside = (products[..., T:, :] * decay) @ writes
    y = _decayed_sum(readings[..., T:, :], since_start[..., None], inside).flatten(1, 2)
    return y.swapaxes(1, 2).astype(dtype), (k, writes, decay, since_start)


def _solve_unit_lower(strict: mx.array, right: mx.array) -> mx.array:
    """`(I + strict)^-1 right` for a strictly lower triangular `[…, T, T]`: `(I - A)(I + A^2)(I + A^4)…`, exact as A^T = 0.

    Powers of a matrix of 8 rows with entries below 1 stay small; those of a chunk of 64 would not.
    """
    solution = right - strict @ right
    reach = 2
    while reach < strict.shape[-1]:
        strict = strict @ strict
        solution = solution + strict @ solution
        reach *= 2
    return solution


@fused
def _coupling(key_products: mx.array, decay: mx.array, beta: mx.array, strict: mx.array) -> mx.array:
    """How much of what token j writes token i finds along its own key."""
    return key_products * decay * beta[..., None] * strict


@fused
def _errors(v: mx.array, reading: mx.array, since_start: mx.array, beta: mx.array) -> mx.array:
    """What each token would write if it were alone after the state before."""
    return (v - reading * since_start[..., None]) * beta[..., None]


@fused
def _decayed_sum(x: mx.array, decay: mx.array, addend: mx.array) -> mx.array:
    return x * decay + addend
