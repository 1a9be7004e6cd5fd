"""The gated delta rule in plain PyTorch: in chunks for whole texts, and one token at a time.

The state S [Dk, Dv] of a head is decayed, corrected by what it should have answered, and read:
    S ← exp(g) S;  S ← S + k (β (v - kᵀS))ᵀ;  o = Sᵀ q / sqrt(Dk)
with q and k normalised to length one (Yang et al., "Gated Delta Networks", 2024).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64


def unit(x: Tensor) -> Tensor:
    """Return the last axis scaled to length one, in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def _chunks(x: Tensor) -> Tensor:
    """[B, T, H, ...] → [B, H, N, CHUNK, ...] in float32; T is padded with zeros."""
    x = x.float().transpose(1, 2)
    missing = -x.shape[2] % CHUNK
    x = F.pad(x, (0, 0) * (x.dim() - 3) + (0, missing))
    return x.unflatten(2, (-1, CHUNK))


def chunked(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Run the rule over whole texts.

    q, k [B, T, Hk, Dk]; v [B, T, Hv, Dv]; log_decay, beta [B, T, Hv]. Returns the output [B, T, Hv, Dv] in v's dtype
    and the final state [B, Hv, Dk, Dv] in float32. Within a chunk, the corrections of all tokens come from one
    triangular system; between chunks the state is carried on.
    """
    length, dtype, repeats = q.shape[1], v.dtype, v.shape[2] // q.shape[2]
    key_dim, value_dim = k.shape[-1], v.shape[-1]
    q = _chunks(unit(q).repeat_interleave(repeats, 2)) * key_dim**-0.5
    k = _chunks(unit(k).repeat_interleave(repeats, 2))
    v, g, beta = _chunks(v), _chunks(log_decay).cumsum(-1), _chunks(beta)

    causal = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=q.device).tril()
    decay = (g[..., :, None] - g[..., None, :]).masked_fill(~causal, float("-inf")).exp()
    keys = k * beta[..., None]
    system = (keys @ k.mT * decay).tril(-1) + torch.eye(CHUNK, device=q.device)
    right = torch.cat((v * beta[..., None], keys * g.exp()[..., None]), -1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    values, readers = solved.split((value_dim, key_dim), -1)

    inside = q @ k.mT * decay
    from_state = q * g.exp()[..., None]
    into_state = k * (g[..., -1:] - g).exp()[..., None]
    kept = g[..., -1].exp()[..., None, None]
    state = q.new_zeros(*q.shape[:2], key_dim, value_dim)
    outputs = []
    for n in range(q.shape[2]):
        corrected = values[:, :, n] - readers[:, :, n] @ state
        outputs.append(from_state[:, :, n] @ state + inside[:, :, n] @ corrected)
        state = state * kept[:, :, n] + into_state[:, :, n].mT @ corrected
    output = torch.stack(outputs, 2).flatten(2, 3)[:, :, :length].transpose(1, 2)
    return output.to(dtype), state


def step(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the rule over one token: the arguments of `chunked` without T, and the state [B, Hv, Dk, Dv]."""
    repeats, key_dim = v.shape[1] // q.shape[1], q.shape[-1]
    q, k = (unit(x).repeat_interleave(repeats, 1) for x in (q, k))
    state = state * log_decay.float().exp()[..., None, None]
    expected = (state * k[..., None]).sum(-2)
    correction = (v.float() - expected) * beta.float()[..., None]
    state = state + k[..., None] * correction[..., None, :]
    return (state * (q * key_dim**-0.5)[..., None]).sum(-2), state
