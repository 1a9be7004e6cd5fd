"""What is minimised: the loss of the next token, of the drafted tokens after it, and the balance of the experts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo.layout import Layout
from demo.model import DemoModel
from demo.packing import Batch

DRAFT_SHARES = (1.0, 0.7, 0.5)
DRAFT_WEIGHT, BALANCE_WEIGHT, DRAFT_BALANCE_WEIGHT = 0.3, 0.003, 0.001
LEARNED_SHARE = 0.36
"""Room for learned tokens as a share of a batch; what is beyond it in a batch is left out at random."""


@dataclass(frozen=True)
class Inputs:
    """A batch on a device, in shapes that never change.

    tokens, chat [B, T]; targets [M]: places of learned tokens in the flattened batch; counted [M]: 1, or 0 for padding.
    """

    tokens: Tensor
    chat: Tensor
    targets: Tensor
    counted: Tensor

    @classmethod
    def of(cls, batch: Batch, rng: np.random.Generator) -> Inputs:
        """Return a batch as tensors on the CPU."""
        room = int(batch.tokens.size * LEARNED_SHARE)
        places = np.flatnonzero(batch.learned)
        if len(places) > room:
            places = np.sort(rng.choice(places, room, replace=False))
        targets, counted = np.zeros(room, np.int64), np.zeros(room, np.float32)
        targets[: len(places)], counted[: len(places)] = places, 1
        arrays = (batch.tokens.astype(np.int64), batch.chat.astype(np.int32), targets, counted)
        return cls(*map(torch.from_numpy, arrays))

    def to(self, device: str) -> Inputs:
        """Return a copy on a device."""
        return Inputs(*(x.to(device) for x in (self.tokens, self.chat, self.targets, self.counted)))

    def copy_(self, other: Inputs) -> None:
        """Overwrite the values in place."""
        self.tokens.copy_(other.tokens)
        self.chat.copy_(other.chat)
        self.targets.copy_(other.targets)
        self.counted.copy_(other.counted)


def token_loss(hidden: Tensor, weight: Tensor, places: Tensor, tokens: Tensor, counted: Tensor) -> Tensor:
    """Return the mean cross-entropy of `tokens` [M] predicted from hidden [B, T, H] at `places` [M]."""
    logits = F.linear(hidden.flatten(0, 1)[places], weight).float()
    losses = F.cross_entropy(logits, tokens, reduction="none")
    return (losses * counted).sum() / counted.sum().clamp_min(1)


def losses(model: DemoModel, inputs: Inputs, layout: Layout) -> tuple[Tensor, Tensor]:
    """Return the loss to minimise, and the cross-entropies of the next token and of each drafted one [1 + depth]."""
    hidden, balance = model.trunk(inputs.tokens, layout)
    drafted, draft_balance = model.drafts(inputs.tokens, hidden, layout, len(DRAFT_SHARES))
    length = inputs.tokens.shape[1]
    chat, targets = inputs.chat.flatten(), inputs.targets
    tokens = inputs.tokens.flatten()[targets]
    entropies = []
    for ahead, state in enumerate([hidden, *drafted], 1):
        places = (targets - ahead).clamp_min(0)
        inside = (targets % length >= ahead) & (chat[places] == chat[targets])
        entropies.append(token_loss(state, model.lm_head.weight, places, tokens, inputs.counted * inside))
    total = entropies[0] + BALANCE_WEIGHT * balance + DRAFT_BALANCE_WEIGHT * draft_balance
    for share, entropy in zip(DRAFT_SHARES, entropies[1:], strict=True):
        total = total + DRAFT_WEIGHT * share / sum(DRAFT_SHARES) * entropy
    return total, torch.stack([e.detach() for e in entropies])
