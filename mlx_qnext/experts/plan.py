"""The plan of a model's memory, from its headers alone: what everything else takes, and how many experts find room beside it.

All sizes are those in memory on the back end that computes: on the CPU what is stored in half precision is widened to fp32,
and only packed integers stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import mlx.core as mx

from mlx_qnext.checkpoint import PACKED_DTYPE, Checkpoint, TensorInfo
from mlx_qnext.config import ModelConfig
from mlx_qnext.errors import MemoryLimitError, UsageError
from mlx_qnext.experts import DEFAULT_CONTEXT_TOKENS
from mlx_qnext.experts.memory import allotted_bytes
from mlx_qnext.experts.workspace import SPAN_STEP, Workspace
from mlx_qnext.ops.device import compute_dtype

_ROUTED = re.compile(r"(.+\.mlp)\.(?:switch_mlp|experts)\.")
_DTYPES = {"F32": mx.float32, "F16": mx.float16}

# Keys and values grow by this many tokens at a time.
_CACHE_STEP = 256
# The recurrent state of a live session, and of the four positions at most that it can be taken back to.
_STATES = 5
# Python, MLX, tokenizer and vocabulary; and the part of what is always there that allocators lose on top.
_PROGRAM_BYTES = 300_000_000
_LOST = 16
_ROUND = 10_000_000
# Where experts have to be fetched, this part of what is left is for reading prompts in longer spans: fewer sweeps over all.
_SPAN_SHARE = 8


@dataclass(frozen=True)
class MemoryPlan:
    """What a model takes of a machine's memory, in bytes.

    Attributes:
        total_bytes: all of it, and never less than the sum of the parts.
        trunk_bytes: weights that are always there, shared experts too. cache_bytes: keys and values of `context_tokens`.
        state_bytes: recurrent states, snapshots too. workspace_bytes: of computing. headroom_bytes: of everything else.
        expert_bytes: of one expert, in the layer where it is largest. experts_bytes: of all slots.
        context_tokens: for how long a context. span_tokens: how many tokens of a prompt may go through a layer together.
        asked_bytes: what was asked for; `None` where it is what the machine can spare.
        slots: how many experts can be in memory at once, by the path of the feed-forward they belong to.
        num_experts: how many each of those has.
    """

    total_bytes: int
    trunk_bytes: int
    cache_bytes: int
    state_bytes: int
    workspace_bytes: int
    headroom_bytes: int
    expert_bytes: int
    experts_bytes: int
    context_tokens: int
    span_tokens: int
    asked_bytes: int | None
    slots: Mapping[str, int]
    num_experts: int

    @property
    def taken_bytes(self) -> int:
        """The sum of the parts."""
        always = self.trunk_bytes + self.cache_bytes + self.state_bytes
        return always + self.workspace_bytes + self.headroom_bytes + self.experts_bytes

    @property
    def complete(self) -> bool:
        """Whether every expert has a slot."""
        return all(slots == self.num_experts for slots in self.slots.values())

    @property
    def share(self) -> float:
        """The part of all experts that have a slot; 1 where there are none."""
        return sum(self.slots.values()) / (len(self.slots) * self.num_experts) if self.slots else 1.0


@dataclass(frozen=True)
class MemoryNeeds:
    """What a model needs at a length of context, whatever there is.

    Attributes:
        expert_bytes: of one expert, by the path of the feed-forward it belongs to. least_slots: that each of those needs.
    """

    trunk_bytes: int
    cache_bytes: int
    state_bytes: int
    workspace: Workspace
    expert_bytes: Mapping[str, int]
    num_experts: int
    least_slots: int

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, config: ModelConfig, context_tokens: int = DEFAULT_CONTEXT_TOKENS
    ) -> MemoryNeeds:
        """Those of a checkpoint; of the context at most as much counts as the model has.

        Raises:
            UsageError: there is no such context.
        """
        if context_tokens < 1:
            raise UsageError(f"A context of {context_tokens} tokens is asked for, expected at least 1.")
        context_tokens = min(context_tokens, config.max_position_embeddings)
        itemsize = _activation(checkpoint).size
        trunk, experts = _weights(checkpoint.tensors.values(), itemsize, config.num_experts)
        return cls(
            trunk,
            _cache(config, context_tokens, itemsize, head=checkpoint.has_mtp),
            _STATES * _state(config, itemsize),
            Workspace(config, itemsize, context_tokens),
            experts,
            config.num_experts,
            config.num_experts_per_tok,
        )

    @property
    def smallest_bytes(self) -> int:
        """The smallest total with which the model runs, in whole 10 MB, so that nothing is lost where it is written down."""
        slots = self.least_slots * sum(self.expert_bytes.values())
        least = self._fixed_bytes + self.headroom_bytes + self._least_workspace + slots
        return -(-least // _ROUND) * _ROUND

    @property
    def headroom_bytes(self) -> int:
        """What the program takes beside the model, and what allocators lose."""
        return _PROGRAM_BYTES + self._fixed_bytes // _LOST

    @property
    def _fixed_bytes(self) -> int:
        return self.trunk_bytes + self.cache_bytes + self.state_bytes

    @property
    def _least_workspace(self) -> int:
        return self.workspace.for_span(SPAN_STEP) if self.expert_bytes else self.workspace.for_chunk()

    def within(self, total_bytes: int, asked_bytes: int | None) -> MemoryPlan:
        """The plan for a total: every expert where all find room, else as many in each layer, and longer spans.

        Raises:
            MemoryLimitError: the total is less than the smallest.
        """
        if total_bytes < self.smallest_bytes:
            raise MemoryLimitError(self._too_little(total_bytes, asked_bytes))
        left = total_bytes - self.headroom_bytes - self._fixed_bytes
        workspace = self._workspace_within(left)
        slots = _shared_out(left - workspace, self.expert_bytes, self.num_experts)
        return MemoryPlan(
            total_bytes,
            self.trunk_bytes,
            self.cache_bytes,
            self.state_bytes,
            workspace,
            self.headroom_bytes,
            max(self.expert_bytes.values(), default=0),
            sum(slots[path] * size for path, size in self.expert_bytes.items()),
            self.workspace.context_tokens,
            self.workspace.largest_span(workspace),
            asked_bytes,
            slots,
            self.num_experts,
        )

    def _workspace_within(self, left_bytes: int) -> int:
        """The workspace, of what is left for it and the experts: what these leave where all find room, else a share."""
        least, a_slot_each = self._least_workspace, sum(self.expert_bytes.values())
        if not a_slot_each:
            return least
        beside_all = left_bytes - self.num_experts * a_slot_each
        if beside_all >= self.workspace.for_chunk():
            least, most = max(least, self.workspace.for_chunk()), beside_all
        else:
            most = min(left_bytes // _SPAN_SHARE, left_bytes - self.least_slots * a_slot_each)
        return max(least, self.workspace.for_span(self.workspace.largest_span(most)))

    def _too_little(self, total_bytes: int, asked_bytes: int | None) -> str:
        least = f"{self.smallest_bytes / 1e9:.2f} GB"
        needs = (
            f"The model needs {least} of memory for a context of {self.workspace.context_tokens} tokens, and"
        )
        has = f"{total_bytes // _ROUND * _ROUND / 1e9:.2f} GB"
        if asked_bytes is None:
            return (
                f"{needs} this machine can spare {has}: close other programs, or plan for a shorter context."
            )
        return f"{needs} {has} are given to it: give it {least}, or plan for a shorter context."


def plan_memory(
    checkpoint: Checkpoint,
    config: ModelConfig,
    asked_bytes: int | None = None,
    context_tokens: int = DEFAULT_CONTEXT_TOKENS,
) -> MemoryPlan:
    """The plan for this machine; `asked_bytes` is what the model may take in all, `None` what the machine can spare.

    Raises:
        MemoryLimitError: more is asked for than the machine has, or there is less than the smallest total that works.
        UsageError: there is no such context.
    """
    needs = MemoryNeeds.of(checkpoint, config, context_tokens)
    return needs.within(allotted_bytes(asked_bytes), asked_bytes)


def _activation(checkpoint: Checkpoint) -> mx.Dtype:
    """The dtype that is computed in: that of the embeddings' plain part, where the back end does not choose."""
    tensors = checkpoint.tensors
    embeddings = tensors.get("model.embed_tokens.scales") or tensors.get("model.embed_tokens.weight")
    return compute_dtype(_DTYPES.get(embeddings.dtype if embeddings else "BF16", mx.bfloat16))


def _weights(tensors: Iterable[TensorInfo], itemsize: int, num_experts: int) -> tuple[int, dict[str, int]]:
    """Bytes of the trunk, and of one expert of each layer that has experts."""
    trunk, layers = 0, dict[str, int]()
    for tensor in tensors:
        size = prod(tensor.shape) * (4 if tensor.dtype == PACKED_DTYPE else itemsize)
        routed = _ROUTED.match(tensor.name) if num_experts else None
        if routed is None:
            trunk += size
        else:
            layers[routed[1]] = layers.get(routed[1], 0) + size
    return trunk, {path: size // num_experts for path, size in layers.items()}


def _cache(config: ModelConfig, tokens: int, itemsize: int, *, head: bool) -> int:
    layers = config.layer_types.count("full_attention") + head
    a_token = 2 * config.num_key_value_heads * config.head_dim * itemsize
    return layers * a_token * -(-tokens // _CACHE_STEP) * _CACHE_STEP


def _state(config: ModelConfig, itemsize: int) -> int:
    """Of all recurrent layers at one position: the convolution's window, and the state in fp32."""
    window = (config.linear_conv_kernel_dim - 1) * config.linear_conv_dim * itemsize
    state = config.linear_value_dim * config.linear_key_head_dim * 4
    return config.layer_types.count("linear_attention") * (window + state)


def _shared_out(room_bytes: int, sizes: Mapping[str, int], num_experts: int) -> dict[str, int]:
    """Slots for each layer: as many in each, and what remains one by one to the first layers."""
    together = max(1, sum(sizes.values()))
    each = min(num_experts, room_bytes // together)
    remaining, slots = room_bytes - each * together, dict[str, int]()
    for path, size in sizes.items():
        more = each < num_experts and size <= remaining
        remaining -= size * more
        slots[path] = each + more
    return slots
