"""Greedy decoding of many prompts at once with the PyTorch model: slow and plain, to measure training by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from demo import delta_rule
from demo.layers import DecoderLayer
from demo.layout import Layout, dense_attention, plain_layout
from demo.model import DemoModel


@dataclass
class Memory:
    """What a layer keeps: last channels and state of a recurrent one, keys and values of an attention layer."""

    first: Tensor
    second: Tensor

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but the given ones."""
        self.first, self.second = self.first[rows], self.second[rows]


def _read(layer: DecoderLayer, x: Tensor, layout: Layout, real: Tensor) -> tuple[Tensor, Memory]:
    """Run a layer over the prompts; `real` [B, T] marks what is not padding."""
    if layer.recurrent:
        mixer = layer.linear_attn
        channels, *_ = mixer.project(layer.input_layernorm(x))
        q, k, v, log_decay, beta, z = layer.before_delta(x, layout.first, layout.same)
        output, state = delta_rule.chunked(q, k, v, log_decay, beta)
        x = layer.after_delta(x, output, z)
        taps = mixer.conv1d.weight.shape[-1] - 1
        memory = Memory(channels[:, -taps:] * real[:, -taps:, None], state)
    else:
        q, k, v, gate = layer.before_attention(x, layout.positions)
        x, memory = layer.after_attention(x, layout.attend(q, k, v)[0], gate), Memory(k, v)
    return layer.after_mixer(x)[0], memory


def _write(layer: DecoderLayer, x: Tensor, position: Tensor, memory: Memory, real: Tensor) -> Tensor:
    """Run a layer over one token of each row and extend its memory."""
    if layer.recurrent:
        mixer = layer.linear_attn
        channels, z, log_decay, beta = mixer.project(layer.input_layernorm(x))
        window = torch.cat((memory.first, channels), 1)
        q, k, v = mixer.split(F.silu((window * mixer.conv1d.weight[:, 0].t()).sum(1)))
        output, memory.second = delta_rule.step(q, k, v, log_decay[:, 0], beta[:, 0], memory.second)
        memory.first = window[:, 1:]
        x = layer.after_delta(x, output[:, None], z)
    else:
        q, k, v, gate = layer.before_attention(x, position)
        memory.first, memory.second = torch.cat((memory.first, k), 1), torch.cat((memory.second, v), 1)
        output, _ = dense_attention(q, memory.first, memory.second, real[:, None])
        x = layer.after_attention(x, output, gate)
    return layer.after_mixer(x)[0]


@torch.inference_mode()
def generate(model: DemoModel, prompts: list[list[int]], stop: int, limit: int) -> list[list[int]]:
    """Return the greedy continuation of each prompt, up to and with `stop`, or of `limit` tokens.

    Prompts are padded on the left; the padding counts as a chat of its own, which nothing sees.
    """
    width = max(map(len, prompts))
    tokens = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    real = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts])
    layout = plain_layout(real.int(), model.architecture.linear_conv_kernel_dim)
    layers = cast(list[DecoderLayer], model.layers)
    x, memories = model.embed_tokens(tokens), []
    for layer in layers:
        x, memory = _read(layer, x, layout, real)
        memories.append(memory)
    written: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts))
    for count in range(limit):
        token = model.lm_head(model.norm(x[:, -1:])).argmax(-1)
        for row, value in zip(rows.tolist(), token[:, 0].tolist(), strict=True):
            written[row].append(value)
        live = (token[:, 0] != stop).nonzero()[:, 0]
        if not len(live):
            break
        if len(live) < len(rows):
            rows, token, real = rows[live], token[live], real[live]
            for memory in memories:
                memory.keep(live)
        real = F.pad(real, (0, 1), value=True)
        x = model.embed_tokens(token)
        for layer, memory in zip(layers, memories, strict=True):
            x = _write(layer, x, torch.tensor([width + count]), memory, real)
    return written
