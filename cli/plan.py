"""`qnext inspect`: the plan of a model's memory, and what the machine has of it, as facts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.options import Room
from mlx_qnext.errors import MemoryLimitError

if TYPE_CHECKING:
    from mlx_qnext.checkpoint import Checkpoint
    from mlx_qnext.config import ModelConfig
    from mlx_qnext.experts.plan import MemoryPlan


def plan_facts(checkpoint: Checkpoint, config: ModelConfig, room: Room) -> dict[str, Any] | None:
    """What the model would take of the room, or of what this machine can spare; `None` where its weights are not run here.

    More may be asked for than this machine has: the plan may be for another one. Where the model does not fit (`fits`), it is
    the smallest plan that works. `largest_context` is the longest that fits, and `largest_resident_context` the longest beside
    every expert; `None` where not even 256 tokens do. `slots` is `None` for a model without experts, `kv_bits` where keys and
    values are kept as computed.

    Raises:
        UsageError: there is no such context, or there are no such keys and values.
    """
    from mlx_qnext.checkpoint import LOADABLE_DTYPES
    from mlx_qnext.experts.memory import allotted_bytes
    from mlx_qnext.experts.plan import MemoryNeeds

    asked_bytes = room.memory_bytes
    given_bytes = allotted_bytes(None) if asked_bytes is None else asked_bytes
    if room.context_tokens is None:
        needs = MemoryNeeds.within_reach(checkpoint, config, given_bytes, room.kv_bits)
    else:
        needs = MemoryNeeds.of(checkpoint, config, room.context_tokens, room.kv_bits)
    if any(tensor.dtype not in LOADABLE_DTYPES for tensor in checkpoint.tensors.values()):
        return None
    try:
        plan, fits = needs.within(given_bytes, asked_bytes), True
    except MemoryLimitError:
        plan, fits = needs.within(needs.smallest_bytes, asked_bytes), False
    return {
        "fits": fits,
        "regime": "resident" if plan.complete else "streaming",
        "asked": asked_bytes,
        "given": given_bytes,
        "smallest": needs.smallest_bytes,
        "context": plan.context_tokens,
        "largest_context": needs.largest_context(given_bytes),
        "largest_resident_context": needs.largest_context(given_bytes, complete=True),
        "kv_bits": plan.kv_bits,
        "chunk": plan.chunk_tokens,
        "span": plan.span_tokens,
        "checkpoints": plan.checkpoints,
        "share": round(plan.share, 4),
        "slots": _slots(plan),
        "bytes": {"total": plan.taken_bytes, **_parts(plan)},
    }


def machine_facts() -> dict[str, Any]:
    """What this machine has of memory, in bytes; `None` where the back end or the system has no such number."""
    from mlx_qnext.experts.memory import MachineMemory

    found = MachineMemory.found()
    return {
        "backend": found.backend.value,
        "physical": found.physical_bytes,
        "available": found.available_bytes,
        "control_group": found.control_group_bytes,
        "recommended": found.recommended_bytes,
        "gpu": found.gpu_bytes,
    }


def _slots(plan: MemoryPlan) -> dict[str, int] | None:
    if not plan.slots:
        return None
    slots = plan.slots.values()
    return {"least": min(slots), "most": max(slots), "of": plan.num_experts}


def _parts(plan: MemoryPlan) -> dict[str, int]:
    return {
        "trunk": plan.trunk_bytes,
        "experts": plan.experts_bytes,
        "cache": plan.cache_bytes,
        "state": plan.state_bytes,
        "workspace": plan.workspace_bytes,
        "headroom": plan.headroom_bytes,
    }
