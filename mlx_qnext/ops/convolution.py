"""The short causal convolution in front of the delta rule, one filter a channel, with its window carried from call to call."""

from __future__ import annotations

import mlx.core as mx

from mlx_qnext.ops.device import Backend, backend, fused
from mlx_qnext.ops.elementwise import silu


def causal_convolution(
    x: mx.array, window: mx.array, weight: mx.array, mask: mx.array | None = None
) -> tuple[mx.array, mx.array]:
    """silu(sum_j weight[:, j] · input[t - K + 1 + j]), and the window that the next call starts from.

    `x` `[B, T, C]`; `window` `[B, K - 1, C]`, the inputs before it; `weight` `[C, K]`, oldest input first. Where `mask`
    `[B, T]` is False the input counts as 0, and the window returned ends at a row's last true token.
    """
    T, K = x.shape[1], weight.shape[1]
    if mask is not None:
        x = mx.where(mask[..., None], x, 0)
    padded = mx.concatenate([window, x], axis=1)
    if T == 1 and backend() is Backend.CPU:
        # Few operations, where each costs as much as its arithmetic; a GPU fuses the other form into one.
        y = silu((padded * weight.T).sum(axis=1, keepdims=True))
    else:
        taps = [padded[:, j : j + T] for j in range(K)]
        y = _filter(taps, [weight[:, j] for j in range(K)])
    return y, _window(padded, K - 1, mask)


def window_after(count: int, x: mx.array, window: mx.array) -> mx.array:
    """The window `[B, K - 1, C]` after the first `count` inputs of `x` `[B, T, C]`; `window` is the one before them."""
    return mx.contiguous(mx.concatenate([window, x[:, :count]], axis=1)[:, -window.shape[1] :])


@fused
def _filter(taps: list[mx.array], weights: list[mx.array]) -> mx.array:
    return silu(sum((tap * w for tap, w in zip(taps[1:], weights[1:], strict=True)), taps[0] * weights[0]))


def _window(padded: mx.array, length: int, mask: mx.array | None) -> mx.array:
    if mask is None:
        # Contiguous, so that the window does not keep the whole padded input alive.
        return mx.contiguous(padded[:, padded.shape[1] - length :])
    ends = (mask * mx.arange(1, mask.shape[1] + 1)).max(axis=1)
    positions = ends[:, None] + mx.arange(length)
    return mx.take_along_axis(padded, positions[..., None], axis=1)
