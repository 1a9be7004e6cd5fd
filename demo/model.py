"""The demo model: a Qwen3-Next trunk and its multi-token-prediction head."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.architecture import Architecture
from demo.layers import DecoderLayer, RMSNorm, linear
from demo.layout import Layout

KeysValues = tuple[Tensor, Tensor]


class MTPHead(nn.Module):
    """Drafts further tokens from the trunk's hidden state and the embedding of the next token.

    Step k at place t reads the hidden state of step k-1 (the trunk's, for k = 1) and token t+k, and predicts token
    t+k+1. Its queries see the keys of step 1 up to place t and their own keys of steps 2 to k, as in a drafting loop
    whose cache holds the accepted text.
    """

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.pre_fc_norm_embedding = RMSNorm(a.hidden_size, a.rms_norm_eps)
        self.pre_fc_norm_hidden = RMSNorm(a.hidden_size, a.rms_norm_eps)
        self.fc = linear(2 * a.hidden_size, a.hidden_size)
        self.layers = nn.ModuleList([DecoderLayer(a, recurrent=False)])
        self.norm = RMSNorm(a.hidden_size, a.rms_norm_eps)

    def enter(self, embedding: Tensor, hidden: Tensor) -> Tensor:
        """Return the layer's input [B, T, H] in float32: both norms, the embedding first, and the projection."""
        both = torch.cat((self.pre_fc_norm_embedding(embedding), self.pre_fc_norm_hidden(hidden)), -1)
        return self.fc(both).float()

    def with_own_keys(self, output: Tensor, score: Tensor, q: Tensor, own: list[KeysValues]) -> Tensor:
        """Extend attention over the text (output [B, T, H, D], log-sum-exp [B, T, H]) by one key per later step."""
        repeats, scale = q.shape[2] // own[0][0].shape[2], q.shape[-1] ** -0.5
        scores = [score.float()]
        scores += [(q.float() * k.repeat_interleave(repeats, 2).float()).sum(-1) * scale for k, _ in own]
        shares = torch.stack(scores, -1).softmax(-1)
        mixed = output.float() * shares[..., :1]
        for index, (_, v) in enumerate(own, 1):
            mixed = mixed + v.repeat_interleave(repeats, 2).float() * shares[..., index : index + 1]
        return mixed.to(output.dtype)

    def step(
        self, embedding: Tensor, hidden: Tensor, layout: Layout, past: list[KeysValues]
    ) -> tuple[Tensor, Tensor]:
        """Run one drafting step; `past` holds the keys and values of the earlier steps and is extended by this one's.

        Returns the hidden state [B, T, H] and the load-balancing loss.
        """
        layer = cast(DecoderLayer, self.layers[0])
        x = self.enter(embedding, hidden)
        q, k, v, gate = layer.before_attention(x, layout.positions + len(past))
        past.append((k, v))
        output, score = layout.attend(q, *past[0])
        if len(past) > 1:
            output = self.with_own_keys(output, score, q, past[1:])
        y, balance = layer.after_mixer(layer.after_attention(x, output, gate))
        return self.norm(y), balance


class DemoModel(nn.Module):
    """Embedding, decoder layers, final norm, output projection and the MTP head."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.architecture = a
        self.embed_tokens = nn.Embedding(a.vocab_size, a.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=0.5)
        self.layers = nn.ModuleList(
            [DecoderLayer(a, a.is_linear(index)) for index in range(a.num_hidden_layers)]
        )
        self.norm = RMSNorm(a.hidden_size, a.rms_norm_eps)
        self.lm_head = linear(a.hidden_size, a.vocab_size, 0.5)
        self.mtp = MTPHead(a)

    def trunk(self, tokens: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """tokens [B, T] → hidden states after the final norm [B, T, H], and the mean load-balancing loss."""
        x, balances = self.embed_tokens(tokens), []
        for layer in self.layers:
            x, balance = layer(x, layout)
            balances.append(balance)
        return self.norm(x), torch.stack(balances).mean()

    def drafts(
        self, tokens: Tensor, hidden: Tensor, layout: Layout, depth: int
    ) -> tuple[list[Tensor], Tensor]:
        """Return the hidden states that predict tokens t+2, …, t+depth+1, and the mean load-balancing loss."""
        past: list[KeysValues] = []
        states, balances = [], []
        for ahead in range(1, depth + 1):
            embedding = self.embed_tokens(F.pad(tokens, (0, ahead))[:, ahead:])
            hidden, balance = self.mtp.step(embedding, hidden, layout, past)
            states.append(hidden)
            balances.append(balance)
        return states, torch.stack(balances).mean()
