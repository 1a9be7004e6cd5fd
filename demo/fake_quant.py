"""Training under the rounding of MLX's 4-bit affine quantisation, so that little is lost by it later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

BITS, GROUP = 4, 64
_EXACT = ("conv1d", "mlp.gate.", "shared_expert_gate")


def rounded(weight: Tensor) -> Tensor:
    """Return what remains of a matrix [..., C] after quantising groups of 64 along its last axis as MLX does.

    The scale has the sign that puts the value of largest magnitude on a code exactly.
    """
    groups = weight.unflatten(-1, (-1, GROUP))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    levels = 2**BITS - 1
    negative = low.abs() > high.abs()
    scale = ((high - low) / levels).clamp_min(1e-7)
    scale = torch.where(negative, scale, -scale)
    edge = torch.where(negative, low, high)
    steps = torch.round(edge / scale)
    scale = torch.where(steps != 0, edge / torch.where(steps != 0, steps, 1.0), scale)
    bias = torch.where(steps != 0, edge, 0.0)
    codes = torch.round((groups - bias) / scale).clamp(0, levels)
    return (codes * scale + bias).flatten(-2)


def quantised_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters that quantisation rounds: all matrices but the routers' and the convolutions'."""
    return [
        (name, p)
        for name, p in model.named_parameters()
        if p.dim() > 1 and not any(part in name for part in _EXACT) and "norm" not in name
    ]


def _rounded_as_stored(name: str, value: Tensor) -> Tensor:
    """Round along the input axis, which for the transposed down projections of the experts is the other one."""
    transposed = name.endswith("experts.down_proj")
    matrix = value.mT.contiguous() if transposed else value
    if matrix.shape[-1] % GROUP:
        return value
    return rounded(matrix).mT if transposed else rounded(matrix)


@contextmanager
def quantised(parameters: list[tuple[str, nn.Parameter]], strength: Tensor) -> Iterator[None]:
    """Replace parameters by their rounded values inside, and restore them at the end; their gradients stay.

    `strength` 0 leaves the values as they are, 1 rounds them; a tensor, so that a CUDA graph can be replayed with both.
    """
    with torch.no_grad():
        exact = [p.detach().clone() for _, p in parameters]
        for (name, p), value in zip(parameters, exact, strict=True):
            p.copy_(torch.lerp(value, _rounded_as_stored(name, value), strength))
    yield
    with torch.no_grad():
        for (_, p), value in zip(parameters, exact, strict=True):
            p.copy_(value)
