"""What makes training fast on an NVIDIA GPU: compiled regions, block-sparse attention, and one graph per step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from demo import objective
from demo.layers import DecoderLayer
from demo.layout import DeltaRule, Layout, neighbours
from demo.model import MTPHead

BLOCK = 128
_REGIONS = (
    (DecoderLayer, "before_delta"),
    (DecoderLayer, "after_delta"),
    (DecoderLayer, "before_attention"),
    (DecoderLayer, "after_attention"),
    (DecoderLayer, "after_mixer"),
    (MTPHead, "enter"),
    (MTPHead, "with_own_keys"),
    (objective, "token_loss"),
)


def compile_regions(backend: str = "inductor") -> None:
    """Replace the regions between the sequence kernels by compiled ones, each compiled once for all layers."""
    torch._dynamo.config.recompile_limit = 32
    for owner, name in _REGIONS:
        setattr(owner, name, torch.compile(getattr(owner, name), dynamic=False, backend=backend))


def block_mask(chat: Tensor) -> BlockMask:
    """Return the mask of packed chats [B, T] for flex attention.

    Chat numbers grow along a row, so a block of keys matters to a block of queries if the last key's chat is not
    before the first query's. T must be a multiple of the block size.
    """
    first, last = chat[:, ::BLOCK], chat[:, BLOCK - 1 :: BLOCK]
    index = torch.arange(first.shape[1], device=chat.device)
    needed = (index[:, None] >= index) & (last[:, None, :] >= first[:, :, None])
    counts = needed.sum(-1, dtype=torch.int32)[:, None]
    order = needed.int().argsort(dim=-1, descending=True, stable=True).int()[:, None]

    def visible(b: Tensor, _: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q >= k) & (chat[b, q] == chat[b, k])

    return BlockMask.from_kv_blocks(counts, order, BLOCK_SIZE=BLOCK, mask_mod=visible)


def gpu_layouts(delta_rule: DeltaRule, compiled: bool = True) -> Callable[[Tensor, int], Layout]:
    """Return the counterpart of `plain_layout` with sparse attention and the given delta rule."""
    attention = torch.compile(flex_attention, dynamic=False) if compiled else flex_attention

    def layout(chat: Tensor, kernel: int) -> Layout:
        first, same = neighbours(chat, kernel)
        mask = block_mask(chat)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            output, score = attention(q, k, v, block_mask=mask, enable_gqa=True, return_lse=True)
            return output.transpose(1, 2), score.transpose(1, 2)

        return Layout(first, same, torch.arange(chat.shape[1], device=chat.device), attend, delta_rule)

    return layout


def captured(step: Callable[[], Tensor], warm_ups: int = 3) -> Callable[[], Tensor]:
    """Record everything that `step` launches in a CUDA graph, and return a function that replays it.

    `step` must read its inputs from tensors that stay in place, and is run `warm_ups` times before.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warm_ups):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
