"""How the tokens of packed rows see each other: each chat only itself, and only backwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from demo import delta_rule

Attend = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
DeltaRule = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Layout:
    """What the layers need to know about a batch.

    `first` [B, T]: a chat starts here. `same` [B, T, K-1]: the token j+1 places back is in the same chat.
    `positions` [T]. `attend` maps q [B, T, H, D], k and v [B, T, Hk, D] to the output [B, T, H, D] and the
    log-sum-exp of the scores [B, T, H]. `delta_rule` is the gated delta rule.
    """

    first: Tensor
    same: Tensor
    positions: Tensor
    attend: Attend
    delta_rule: DeltaRule


def dense_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Attention with a mask [B, T, S] of what each query sees; shapes as in `Layout.attend`."""
    repeats = q.shape[2] // k.shape[2]
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = (q @ k.mT).float() * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~visible[:, None], -1e30)
    output = scores.softmax(-1).to(v.dtype) @ v
    return output.transpose(1, 2), scores.logsumexp(-1).transpose(1, 2)


def neighbours(chat: Tensor, kernel: int) -> tuple[Tensor, Tensor]:
    """Return `first` and `same` of a layout for the chat numbers [B, T] and a convolution of `kernel` taps."""
    length = chat.shape[1]
    before = [F.pad(chat, (j, 0), value=-1)[:, :length] for j in range(1, kernel)]
    return before[0] != chat, torch.stack([b == chat for b in before], -1)


def plain_layout(chat: Tensor, kernel: int) -> Layout:
    """Return the layout of chat numbers [B, T], computed by plain operations on any device."""
    first, same = neighbours(chat, kernel)
    positions = torch.arange(chat.shape[1], device=chat.device)
    visible = (chat[:, :, None] == chat[:, None, :]) & (positions[:, None] >= positions)
    return Layout(
        first,
        same,
        positions,
        lambda q, k, v: dense_attention(q, k, v, visible),
        lambda q, k, v, g, beta: delta_rule.chunked(q, k, v, g, beta)[0],
    )
