"""The gated delta rule (Yang et al. 2024, "Gated Delta Networks", arXiv 2412.06464, eq. 10) in three forms, one signature.

    S_t = a_t S_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T,      y_t = S_t q_t

Shapes: q, k `[B, T, Hk, Dk]`; v `[B, T, Hv, Dv]`; log_decay = log a (fp32, <= 0) and beta `[B, T, Hv]`; state `[B, Hv, Dv, Dk]`
in fp32. `Hv` is a multiple of `Hk`, and value head h reads key head `h // (Hv // Hk)`. The caller normalises q and k and folds
`Dk ** -0.5` into q. Where `mask` `[B, T]` is False the token is padding: the state passes it unchanged and its output is
undefined. Every form returns y `[B, T, Hv, Dv]` in v's dtype, and the state after the last token in fp32.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_qnext.mlx_lm_parts import gated_delta_kernel
from mlx_qnext.ops.device import Backend, backend

# Up to this many tokens the step-by-step form needs fewer kernels than one padded chunk.
_RECURRENT_MAX_TOKENS = 8
_CHUNK = 64
# mlx-lm's Metal kernel spreads a key over the lanes of a SIMD group.
_METAL_LANES = 32
# Fewer operations a token, in more and smaller kernels, which only the CPU does not mind.
_CPU_CHUNK = 16


def gated_delta(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    log_decay: mx.array,
    beta: mx.array,
    state: mx.array | None = None,
    mask: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """Run the recurrence in the form that suits the device and the number of tokens (module docstring: shapes)."""
    if state is None:
        state = mx.zeros((v.shape[0], v.shape[2], v.shape[3], k.shape[3]), dtype=mx.float32)
    if takes_metal_kernel(k):
        return gated_delta_kernel(q, k, v, mx.exp(log_decay), beta, state, mask)
    if q.shape[1] <= _RECURRENT_MAX_TOKENS:
        return recurrent(q, k, v, log_decay, beta, state, mask)
    chunk = _CPU_CHUNK if backend() is Backend.CPU else _CHUNK
    return chunked(q, k, v, log_decay, beta, state, mask, chunk=chunk)


def takes_metal_kernel(k: mx.array) -> bool:
    """Whether mlx-lm's kernel runs on this device and for keys of this length."""
    return backend() is Backend.METAL and k.shape[-1] % _METAL_LANES == 0


def recurrent(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    log_decay: mx.array,
    beta: mx.array,
    state: mx.array,
    mask: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """Token by token, as the equation reads: the reference for every other form."""
    log_decay, beta = _without_padding(log_decay, beta, mask)
    q, k = (mx.repeat(x.astype(mx.float32), v.shape[2] // k.shape[2], axis=2) for x in (q, k))
    decay = mx.exp(log_decay)
    outputs = []
    for t in range(v.shape[1]):
        key = k[:, t, :, None]
        state = state * decay[:, t, :, None, None]
        error = v[:, t] - (state * key).sum(-1)
        state = state + (error * beta[:, t, :, None])[..., None] * key
        outputs.append((state * q[:, t, :, None]).sum(-1))
    return mx.stack(outputs, axis=1).astype(v.dtype), state


def chunked(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    log_decay: mx.array,
    beta: mx.array,
    state: mx.array,
    mask: mx.array | None = None,
    *,
    chunk: int = _CHUNK,
) -> tuple[mx.array, mx.array]:
    """The same in chunks of matmuls (section 3.3 there): inside a chunk all tokens at once, one step of the state per chunk.

    The chunk's triangular system is inverted by merging blocks, which stays accurate where keys correlate; decays are
    sums of logs that never exceed 0, so that strong decay underflows to 0 and nothing overflows. `chunk` is a power of two.
    """
    T, dtype = v.shape[1], v.dtype
    size = min(chunk, max(16, 1 << (T - 1).bit_length()))
    log_decay, beta = _without_padding(log_decay, beta, mask)
    q, k = (_in_chunks(x, size)[:, :, None] for x in (q, k))
    v, log_decay, beta = (grouped(_in_chunks(x, size), k.shape[1]) for x in (v, log_decay, beta))

    decay = decay_between(log_decay)
    since_start = mx.exp(mx.cumsum(log_decay, axis=-1))[..., None]
    until_end = decay[..., -1, :, None]
    chunk_decay = since_start[..., -1:, :]

    # Laid out anew, because the CPU wheels' BLAS multiplies by a matrix that lies transposed at half speed; the state is
    # carried transposed, `[Dk, Dv]`, for the same reason.
    transposed_keys = mx.contiguous(k.swapaxes(-1, -2))
    key_products = (k @ transposed_keys) * decay * beta[..., None]
    solve = _unit_lower_inverse(mx.where(mx.tri(size, k=-1, dtype=mx.bool_), key_products, 0))
    own_values = solve @ (v * beta[..., None])
    read_keys = solve @ (k * since_start * beta[..., None])
    attention = (q @ transposed_keys) * decay
    queries, keys = q * since_start, k * until_end

    state = mx.contiguous(grouped(state, k.shape[1]).swapaxes(-1, -2))
    outputs = []
    for n in range(v.shape[3]):
        new_values = own_values[:, :, :, n] - read_keys[:, :, :, n] @ state
        outputs.append(queries[:, :, :, n] @ state + attention[:, :, :, n] @ new_values)
        state = state * chunk_decay[:, :, :, n] + keys[:, :, :, n].swapaxes(-1, -2) @ new_values
    y = mx.stack(outputs, axis=3).flatten(1, 2).flatten(2, 3)[:, :, :T]
    return y.swapaxes(1, 2).astype(dtype), state.swapaxes(-1, -2).flatten(1, 2)


def _without_padding(log_decay: mx.array, beta: mx.array, mask: mx.array | None) -> tuple[mx.array, mx.array]:
    """Decay 1 and beta 0 let the state pass a padded token unchanged."""
    log_decay, beta = log_decay.astype(mx.float32), beta.astype(mx.float32)
    if mask is None:
        return log_decay, beta
    return mx.where(mask[..., None], log_decay, 0), mx.where(mask[..., None], beta, 0)


def decay_between(log_decay: mx.array) -> mx.array:
    """`[…, C]` → `[…, C, C]`: the decay from token j to token i, 0 where j comes after i.

    Each is summed on its own: as the difference of two running sums, weak decay after strong would drown in their rounding.
    """
    size = log_decay.shape[-1]
    later = mx.where(mx.triu(mx.ones((size, size), dtype=mx.bool_), k=1), log_decay[..., None, :], 0)
    summed = mx.cumsum(later, axis=-1).swapaxes(-1, -2)
    return mx.where(mx.tri(size, dtype=mx.bool_), mx.exp(summed), 0)


def _in_chunks(x: mx.array, size: int) -> mx.array:
    """`[B, T, H, …]` → fp32 `[B, H, N, size, …]`, zero-padded at the end, which `_without_padding` explains."""
    x = x.astype(mx.float32)
    padding = -x.shape[1] % size
    if padding:
        x = mx.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
    return mx.unflatten(x.swapaxes(1, 2), 2, (-1, size))


def grouped(x: mx.array, key_heads: int) -> mx.array:
    """`[B, Hv, …]` → `[B, Hk, Hv // Hk, …]`: the value heads beside the key head that they share."""
    return mx.unflatten(x, 1, (key_heads, -1))


def _unit_lower_inverse(strict: mx.array) -> mx.array:
    """`(I + strict)^-1` for strictly lower triangular `[…, C, C]`, C a power of two, at least 2.

    Diagonal blocks of 2 invert as `I - A` exactly; then pairs merge: `[P 0; A Q]^-1 = [P^-1 0; -Q^-1 A P^-1 Q^-1]`.
    """
    size = strict.shape[-1]
    inverse = mx.eye(2) - _diagonal_blocks(strict, 2)
    while inverse.shape[-1] < size:
        half = inverse.shape[-1]
        below = _diagonal_blocks(strict, 2 * half)[..., half:, :half]
        upper, lower = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        corner = -(lower @ below @ upper)
        top = mx.concatenate([upper, mx.zeros_like(upper)], axis=-1)
        inverse = mx.concatenate([top, mx.concatenate([corner, lower], axis=-1)], axis=-2)
    return inverse[..., 0, :, :]


def _diagonal_blocks(x: mx.array, size: int) -> mx.array:
    """`[…, C, C]` → `[…, C // size, size, size]`, the blocks on the diagonal."""
    count = x.shape[-1] // size
    blocks = mx.unflatten(mx.unflatten(x, -1, (count, size)), -3, (count, size))
    return mx.moveaxis(mx.diagonal(blocks, axis1=-4, axis2=-2), -1, -3)
