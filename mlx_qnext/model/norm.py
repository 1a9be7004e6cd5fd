"""Root-mean-square norm with a weight that is stored ready to multiply."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn


class RmsNorm(nn.Module):
    """x / rms(x) · weight (Zhang and Sennrich 2019), over the last axis.

    The checkpoints of Hugging Face store `weight - 1`; the loader adds the 1 in fp32 and keeps fp32, because rounding the
    sum to bf16 moves logits visibly. The product is rounded once, to the input's dtype.
    """

    def __init__(self, weight: mx.array, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight, eps

    def __call__(self, x: mx.array) -> mx.array:
        """`[…, D] → […, D]` in x's dtype."""
        return mx.fast.rms_norm(x, self.weight, self.eps).astype(x.dtype)
