"""The gated delta rule through the Triton kernels of flash-linear-attention, for Hopper GPUs.

Two things are changed in that library: one backward kernel, which it refuses to run on Hopper with Triton 3.4 to 3.7,
is replaced by the same computation in PyTorch; and each kernel tries only a few of its many tile shapes, because trying
all takes minutes.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from demo import delta_rule
from demo.layers import FORGET
from demo.layout import DeltaRule

CONFIGURATIONS = 3
TOLERANCE = 0.03
"""Largest accepted relative error of an output or gradient, with bf16 operands against float32."""


def _try_few_configurations(count: int) -> None:
    """Make every Triton kernel that is defined from now on try at most `count` configurations."""
    from triton.runtime import autotuner

    original = autotuner.Autotuner.__init__

    def shortened(self, fn, arg_names, configs, *args, **kwargs):  # noqa: ANN001, ANN002, ANN003, ANN202
        stride = max(1, len(configs or ()) // count)
        original(self, fn, arg_names, (configs or [])[::stride][:count], *args, **kwargs)

    autotuner.Autotuner.__init__ = shortened


def chunk_gradients(
    q: Tensor, k: Tensor, v: Tensor, do: Tensor, h: Tensor, dh: Tensor, g: Tensor, dv: Tensor,
    scale: float, chunk_size: int = 64, **_: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of q, k, w and g inside the chunks; the arguments are those of fla's `chunk_bwd_dqkwg`.

    q, k [B, T, Hk, Dk]; v, do, dv [B, T, Hv, Dv]; g [B, T, Hv], summed within chunks, in powers of two; h, dh: state at
    each chunk's start and its gradient at the end [B, N, Hv, Dk, Dv].
    """
    repeats = v.shape[2] // q.shape[2]

    def chunks(x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, chunk_size)).transpose(2, 3)

    def tokens(x: Tensor) -> Tensor:
        return x.transpose(2, 3).flatten(1, 2)

    q, k = chunks(q).repeat_interleave(repeats, 2), chunks(k).repeat_interleave(repeats, 2)
    dtype = v.dtype
    v, do, dv = chunks(v), chunks(do), chunks(dv).to(dtype)
    h, dh = h.view(*v.shape[:3], k.shape[-1], -1), dh.view(*v.shape[:3], k.shape[-1], -1)
    g = chunks(g.float()[..., None])[..., 0]
    end = g[..., -1:]

    causal = torch.ones(chunk_size, chunk_size, dtype=torch.bool, device=q.device).tril()
    decay = torch.exp2((g[..., :, None] - g[..., None, :]).masked_fill(~causal, float("-inf")))
    scores = ((do @ v.mT).float() * decay * scale).to(dtype)
    dk = (v @ dh.to(dtype).mT).float() * torch.exp2(end - g)[..., None]
    carried = (h.float() * dh.float()).sum((-1, -2)) * torch.exp2(end[..., 0]) + (dk * k.float()).sum(
        (-1, -2)
    )
    dq = (do @ h.to(dtype).mT).float() * torch.exp2(g)[..., None] * scale + (scores @ k).float()
    dk = dk + (scores.mT @ q).float()
    dw = -(dv @ h.to(dtype).mT)
    dg = (dq * q.float()).sum(-1) - (dk * k.float()).sum(-1)
    dg = torch.cat((dg[..., :-1], dg[..., -1:] + carried[..., None]), -1)

    dq, dk = (tokens(x).unflatten(2, (-1, repeats)).sum(3) for x in (dq, dk))
    return dq.to(q.dtype), dk.to(k.dtype), tokens(dw), tokens(dg[..., None])[..., 0]


def load(configurations: int = CONFIGURATIONS, compiled: bool = True) -> DeltaRule:
    """Return the delta rule by fla's kernels. Raises ImportError if the library is missing."""
    _try_few_configurations(configurations)
    library: Any = importlib.import_module("fla.ops.gated_delta_rule.chunk")
    library.chunk_bwd_dqkwg = torch.compile(chunk_gradients, dynamic=False) if compiled else chunk_gradients

    def rule(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            v, beta = v.to(q.dtype), beta.to(q.dtype)
            return library.chunk_gated_delta_rule(
                q, k, v, log_decay.float(), beta, use_qk_l2norm_in_kernel=True
            )[0]

    return rule


def _run(rule: DeltaRule, inputs: list[Tensor], weight: Tensor) -> list[Tensor]:
    """Return the output and the gradients of all inputs for the loss sum(output * weight)."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    output = rule(*leaves)
    (output.float() * weight).sum().backward()
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    return [output, *gradients]


def largest_error(
    rule: DeltaRule, device: str, dtype: torch.dtype, batch: int = 4, length: int = 256
) -> float:
    """Return the largest relative error of `rule` against the plain float32 rule, over its output and gradients."""
    generator = torch.Generator(device="cpu").manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    inputs = [draw(batch, length, heads, 64) for heads in (4, 4, 8)]
    decay = -torch.rand(batch, length, 8, generator=generator).pow(3).to(device)
    decay[:, ::37] = FORGET
    inputs = [x.to(dtype) for x in inputs] + [decay, draw(batch, length, 8).sigmoid().to(dtype)]
    weight = draw(batch, length, 8, 64)
    expected = _run(lambda *x: delta_rule.chunked(*x)[0], [x.float() for x in inputs], weight)
    found = _run(rule, inputs, weight)
    for gradients in (expected, found):
        gradients[4] = gradients[4].clone()
        gradients[4][:, ::37] = 0  # The model masks these decays: they are constants.
    errors = [(a.float() - b).norm() / b.norm() for a, b in zip(found, expected, strict=True)]
    return max(float(error) for error in errors)


def checked() -> DeltaRule:
    """Return the delta rule by fla's kernels on this GPU. Raises RuntimeError if it disagrees with the plain rule."""
    rule = load()
    error = largest_error(rule, "cuda", torch.bfloat16)
    if not error < TOLERANCE:
        raise RuntimeError(f"fla's delta rule is off by {error:.4f}, more than {TOLERANCE}")
    return rule
