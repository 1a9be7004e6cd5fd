"""`qnext inspect --memory`: the plan of a model's memory, as facts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_qnext.errors import MemoryLimitError

if TYPE_CHECKING:
    from mlx_qnext.checkpoint import Checkpoint
    from mlx_qnext.config import ModelConfig
    from mlx_qnext.experts.plan import MemoryPlan


def plan_facts(
    checkpoint: Checkpoint, config: ModelConfig, asked_bytes: int | None, context_tokens: int
) -> dict[str, Any] | None:
    """What the model would take of `asked_bytes`, or of what this machine can spare; `None` where its weights are not run here.

    More may be asked for than this machine has: the plan may be for another one. Where the model does not fit (`fits`), it is
    the smallest plan that works. `slots` is `None` for a model without experts.

    Raises:
        UsageError: there is no such context.
    """
    from mlx_qnext.checkpoint import LOADABLE_DTYPES
    from mlx_qnext.experts.memory import allotted_bytes
    from mlx_qnext.experts.plan import MemoryNeeds

    needs = MemoryNeeds.of(checkpoint, config, context_tokens)
    if any(tensor.dtype not in LOADABLE_DTYPES for tensor in checkpoint.tensors.values()):
        return None
    given_bytes = allotted_bytes(None) if asked_bytes is None else asked_bytes
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
        "span": plan.span_tokens,
        "share": round(plan.share, 4),
        "slots": _slots(plan),
        "bytes": {"total": plan.taken_bytes, **_parts(plan)},
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
