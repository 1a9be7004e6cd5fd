"""The optimizers: Muon for the matrices inside the layers, AdamW for everything else.

Muon (Jordan et al., 2024) replaces a matrix's momentum by the nearest orthogonal matrix, found by a few steps of a
Newton-Schulz iteration. Learning rates are tensors, so that a captured CUDA graph can be replayed with others.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

_ADAM_ONLY = ("embed_tokens", "lm_head", "mlp.gate.", "in_proj_ba", "conv1d", "shared_expert_gate")


def orthogonal(x: Tensor) -> Tensor:
    """Return a stack of matrices [N, R, C] with their singular values moved towards one, in bf16."""
    wide = x.shape[-2] <= x.shape[-1]
    x = (x if wide else x.mT).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x if wide else x.mT


class Muon:
    """Muon with Nesterov momentum and decoupled weight decay over matrices [..., R, C]."""

    def __init__(self, parameters: list[nn.Parameter], momentum: float = 0.95, decay: float = 0.02) -> None:
        self.momentum, self.decay = momentum, decay
        self.groups: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            self.groups[parameter.shape].append(parameter)
        self.average = {
            shape: torch.zeros(len(group), *shape, device=group[0].device)
            for shape, group in self.groups.items()
        }

    def step(self, rate: Tensor) -> None:
        """Update all parameters from their gradients; equal shapes are handled as one stack."""
        for shape, group in self.groups.items():
            gradient = torch.stack([p.grad for p in group if p.grad is not None])
            average = self.average[shape].lerp_(gradient, 1 - self.momentum)
            nesterov = gradient.lerp(average, self.momentum)
            update = orthogonal(nesterov.flatten(0, -3)).view_as(nesterov).float()
            update = update * (rate * max(1.0, shape[-2] / shape[-1]) ** 0.5)
            for parameter, change in zip(group, update, strict=True):
                parameter.mul_(1 - rate * self.decay).sub_(change)


class Optimizers:
    """Both optimizers over all parameters of a model; `muon_rate` and `adam_rate` are set from outside."""

    def __init__(self, model: nn.Module) -> None:
        by_adam, by_muon = [], []
        for name, parameter in model.named_parameters():
            adam = parameter.dim() < 2 or any(part in name for part in _ADAM_ONLY)
            (by_adam if adam else by_muon).append(parameter)
        device = by_adam[0].device
        self.muon_rate, self.adam_rate = torch.zeros((), device=device), torch.zeros((), device=device)
        self.muon = Muon(by_muon)
        self.clipped = by_adam
        on_gpu = device.type == "cuda"
        groups = [
            {"params": [p for p in by_adam if p.dim() == 2], "weight_decay": 0.01},
            {"params": [p for p in by_adam if p.dim() != 2], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(
            groups, lr=self.adam_rate, betas=(0.9, 0.97), eps=1e-9, fused=on_gpu, capturable=on_gpu
        )

    def set_rates(self, muon: float, adam: float) -> None:
        """Set the learning rates of the next steps."""
        self.muon_rate.fill_(muon)
        self.adam_rate.fill_(adam)

    @torch.no_grad()
    def step(self) -> None:
        """Update all parameters from their gradients."""
        nn.utils.clip_grad_norm_(self.clipped, 1.0)
        self.muon.step(self.muon_rate)
        self.adam.step()
