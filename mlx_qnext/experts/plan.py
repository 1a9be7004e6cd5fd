"""The plan of a model's memory, from headers alone: what everything else takes, and how many experts find room beside it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.config import ModelConfig
from mlx_qnext.errors import MemoryLimitError, UsageError
from mlx_qnext.experts.memory import allotted_bytes
from mlx_qnext.experts.parts import (
    CACHE_STEP,
    KV_GROUP,
    activation_dtype,
    cache_bytes,
    state_bytes,
    weight_bytes,
)
from mlx_qnext.experts.workspace import Reading, Workspace

# Where no context is asked for, the first of these whose cache takes no more than this part of what there is. The last holds
# a long question and a long thought.
AUTO_CONTEXTS = (32_768, 16_384, 8192)
_CACHE_SHARE = 8
# How many positions a session can be taken back to, at least and at most, and the part of what there is that they may take.
LEAST_CHECKPOINTS, MOST_CHECKPOINTS = 4, 16
_CHECKPOINTS_SHARE = 64
_KV_BITS = (8, 4)
# Python, MLX, tokenizer and vocabulary; and the part of what is always there that allocators lose on top.
_PROGRAM_BYTES = 300_000_000
_LOST = 16
_ROUND = 10_000_000
# Where experts have to be fetched, this part of what is left is for reading prompts in longer spans: fewer sweeps over all.
# Where the smallest workspace, most of which every span needs, already takes as much, half of it beside that.
_SPAN_SHARE = 8


@dataclass(frozen=True)
class MemoryPlan:
    """What a model takes of a machine's memory, in bytes.

    Attributes:
        total_bytes: all of it, and never less than the sum of the parts.
        trunk_bytes: weights that are always there, shared experts too. cache_bytes: keys and values of `context_tokens`.
        state_bytes: recurrent states, those of checkpoints too. workspace_bytes: of computing.
        headroom_bytes: of everything else.
        expert_bytes: of one expert, in the layer where it is largest. experts_bytes: of all slots.
        context_tokens: for how long a context.
        kv_bits: of the trunk's keys and values, where they are quantised.
        checkpoints: how many positions a session keeps to be taken back to, its start not counted.
        chunk_tokens: how many tokens of a prompt go through a mixer together, and through the whole model where it is complete.
        span_tokens: how many of them may go through a layer together.
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
    kv_bits: int | None
    checkpoints: int
    chunk_tokens: int
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
        state_bytes: of the recurrent layers at one position. head: whether there is an MTP head.
        expert_bytes: of one expert, by the path of the feed-forward it belongs to.
    """

    trunk_bytes: int
    state_bytes: int
    expert_bytes: Mapping[str, int]
    workspace: Workspace
    head: bool

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        config: ModelConfig,
        context_tokens: int | None = None,
        kv_bits: int | None = None,
    ) -> MemoryNeeds:
        """Those of a checkpoint; without a context, of the shortest that is chosen where none is asked for.

        Raises:
            UsageError: there is no such context, or no such keys and values.
        """
        if context_tokens is None:
            context_tokens = min(AUTO_CONTEXTS[-1], config.context_limit)
        _check(config, context_tokens, kv_bits)
        itemsize = activation_dtype(checkpoint).size
        trunk, experts = weight_bytes(checkpoint.tensors.values(), itemsize, config.num_experts)
        workspace = Workspace(config, itemsize, context_tokens, kv_bits)
        return cls(trunk, state_bytes(config, itemsize), experts, workspace, checkpoint.has_mtp)

    @classmethod
    def within_reach(
        cls, checkpoint: Checkpoint, config: ModelConfig, total_bytes: int, kv_bits: int | None = None
    ) -> MemoryNeeds:
        """Those for the longest of `AUTO_CONTEXTS` whose cache takes a small part of the total, or else for the shortest.

        Raises:
            UsageError: there are no such keys and values.
        """
        shortest = cls.of(checkpoint, config, None, kv_bits)
        for tokens in AUTO_CONTEXTS:
            needs = shortest.at(min(tokens, config.context_limit))
            if needs.cache_bytes <= total_bytes // _CACHE_SHARE and needs.smallest_bytes <= total_bytes:
                return needs
        return shortest

    def at(self, context_tokens: int) -> MemoryNeeds:
        """The same for another context."""
        return replace(self, workspace=replace(self.workspace, context_tokens=context_tokens))

    @property
    def context_tokens(self) -> int:
        """For how long a context."""
        return self.workspace.context_tokens

    @property
    def num_experts(self) -> int:
        """Of each layer that has any."""
        return self.workspace.config.num_experts

    @property
    def least_slots(self) -> int:
        """How many of them have to be in memory at once."""
        return self.workspace.config.num_experts_per_tok

    @property
    def cache_bytes(self) -> int:
        """Of keys and values of the whole context."""
        w = self.workspace
        return cache_bytes(w.config, w.context_tokens, w.itemsize, w.kv_bits, head=self.head)

    @property
    def smallest_bytes(self) -> int:
        """The smallest total with which the model runs, in whole 10 MB, so that nothing is lost where it is written down."""
        slots = self.least_slots * self._a_slot_each
        least = self.always_bytes(LEAST_CHECKPOINTS) + self._least_workspace + slots
        return -(-least // _ROUND) * _ROUND

    @property
    def complete_bytes(self) -> int:
        """The smallest total with which every expert stays in memory."""
        return self.always_bytes(LEAST_CHECKPOINTS) + self._complete_bytes

    def always_bytes(self, checkpoints: int) -> int:
        """What is there all the time, experts and workspace left out, if a session keeps as many checkpoints."""
        return self._fixed_bytes(checkpoints) + self._headroom_bytes(checkpoints)

    def largest_context(self, total_bytes: int, *, complete: bool = False) -> int | None:
        """The longest context that the total is enough for, in steps of 256 up to what the model has; `None` where not even 256
        tokens are. With `complete` every expert is to stay in memory too."""
        limit = self.workspace.config.context_limit

        def too_long(steps: int) -> bool:
            needs = self.at(min(steps * CACHE_STEP, limit))
            return total_bytes < (needs.complete_bytes if complete else needs.smallest_bytes)

        steps = bisect_left(range(1, -(-limit // CACHE_STEP) + 1), True, key=too_long)
        return min(steps * CACHE_STEP, limit) or None

    def within(self, total_bytes: int, asked_bytes: int | None) -> MemoryPlan:
        """The plan for a total: every expert where all find room, else as many in each layer, and longer spans.

        Raises:
            MemoryLimitError: the total is less than the smallest.
        """
        if total_bytes < self.smallest_bytes:
            raise MemoryLimitError(self._too_little(total_bytes, asked_bytes))
        checkpoints = self._checkpoints_within(total_bytes)
        left = total_bytes - self.always_bytes(checkpoints)
        reading = self._reading_within(left)
        slots = _shared_out(left - reading.bytes, self.expert_bytes, self.num_experts)
        return MemoryPlan(
            total_bytes=total_bytes,
            trunk_bytes=self.trunk_bytes,
            cache_bytes=self.cache_bytes,
            state_bytes=(checkpoints + 1) * self.state_bytes,
            workspace_bytes=reading.bytes,
            headroom_bytes=self._headroom_bytes(checkpoints),
            expert_bytes=max(self.expert_bytes.values(), default=0),
            experts_bytes=sum(slots[path] * size for path, size in self.expert_bytes.items()),
            context_tokens=self.context_tokens,
            kv_bits=self.workspace.kv_bits,
            checkpoints=checkpoints,
            chunk_tokens=reading.chunk_tokens,
            span_tokens=reading.span_tokens,
            asked_bytes=asked_bytes,
            slots=slots,
            num_experts=self.num_experts,
        )

    @property
    def _a_slot_each(self) -> int:
        return sum(self.expert_bytes.values())

    @property
    def _least_workspace(self) -> int:
        return self.workspace.least if self.expert_bytes else self.workspace.least_with_all

    @property
    def _complete_bytes(self) -> int:
        """Of all experts, and of the workspace beside them."""
        return self.num_experts * self._a_slot_each + self.workspace.least_with_all

    def _fixed_bytes(self, checkpoints: int) -> int:
        return self.trunk_bytes + self.cache_bytes + (checkpoints + 1) * self.state_bytes

    def _headroom_bytes(self, checkpoints: int) -> int:
        """What the program takes beside the model, and what allocators lose."""
        return _PROGRAM_BYTES + self._fixed_bytes(checkpoints) // _LOST

    def _checkpoints_within(self, total_bytes: int) -> int:
        """As many as a small part of the total holds; beyond the least, none that keeps an expert from its place."""
        least = self.least_slots * self._a_slot_each + self._least_workspace
        if total_bytes >= self.complete_bytes:
            least = self._complete_bytes
        for checkpoints in range(MOST_CHECKPOINTS, LEAST_CHECKPOINTS, -1):
            small = checkpoints * self.state_bytes <= total_bytes // _CHECKPOINTS_SHARE
            if small and total_bytes - self.always_bytes(checkpoints) >= least:
                return checkpoints
        return LEAST_CHECKPOINTS

    def _reading_within(self, left_bytes: int) -> Reading:
        """How prompts are read, of what is left for that and the experts: in what all of these leave, else in a share."""
        if left_bytes >= self._complete_bytes:
            return self.workspace.resident(left_bytes - self.num_experts * self._a_slot_each)
        share = left_bytes // _SPAN_SHARE
        beside_least = left_bytes - self.least_slots * self._a_slot_each
        return self.workspace.streaming(min(max(share, self.workspace.least + share // 2), beside_least))

    def _too_little(self, total_bytes: int, asked_bytes: int | None) -> str:
        least = f"{self.smallest_bytes / 1e9:.2f} GB"
        has = f"{total_bytes // _ROUND * _ROUND / 1e9:.2f} GB"
        whose = f"this machine can spare {has}" if asked_bytes is None else f"{has} are given to it"
        needs = (
            f"The model needs {least} of memory for a context of {self.context_tokens} tokens, and {whose}"
        )
        remedy = "close other programs" if asked_bytes is None else f"give it {least}"
        fits = self.largest_context(total_bytes)
        if fits is None:
            shortest = self.at(CACHE_STEP).smallest_bytes / 1e9
            return f"{needs}: {remedy}; not even a context of {CACHE_STEP} tokens fits, which needs {shortest:.2f} GB."
        return f"{needs}: a context of at most {fits} tokens fits, or {remedy}."


def plan_memory(
    checkpoint: Checkpoint,
    config: ModelConfig,
    asked_bytes: int | None = None,
    context_tokens: int | None = None,
    kv_bits: int | None = None,
) -> MemoryPlan:
    """The plan for this machine.

    Args:
        asked_bytes: what the model may take in all; `None` is what the machine can spare.
        context_tokens: for how long a context; `None` is the longest of 32,768, 16,384 and 8,192 whose cache takes at most
            an eighth of that, or else 8,192, and never more than the model has.
        kv_bits: 8 or 4 to keep keys and values quantised.

    Raises:
        MemoryLimitError: more is asked for than the machine has, or there is less than the smallest total that works.
        UsageError: there is no such context, or there are no such keys and values.
    """
    total_bytes = allotted_bytes(asked_bytes)
    if context_tokens is None:
        needs = MemoryNeeds.within_reach(checkpoint, config, total_bytes, kv_bits)
    else:
        needs = MemoryNeeds.of(checkpoint, config, context_tokens, kv_bits)
    return needs.within(total_bytes, asked_bytes)


def _check(config: ModelConfig, context_tokens: int, kv_bits: int | None) -> None:
    if context_tokens < 1:
        raise UsageError(f"A context of {context_tokens} tokens is asked for, expected at least 1.")
    if context_tokens > config.context_limit:
        raise UsageError(
            f"A context of {context_tokens} tokens is asked for and this model has {config.context_limit}: ask for at most "
            "that, or stretch it by YaRN, with rope_scaling in its config.json."
        )
    if kv_bits is not None and kv_bits not in _KV_BITS:
        raise UsageError(f"Keys and values of {kv_bits} bits are asked for, expected 8 or 4.")
    if kv_bits is not None and config.head_dim % KV_GROUP:
        raise UsageError(
            f"Keys and values of {kv_bits} bits are asked for, and heads of {config.head_dim} channels are no whole groups of "
            f"{KV_GROUP}: leave them unquantised."
        )


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
