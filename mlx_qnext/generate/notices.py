"""What a request is told beside its answer: limits that it met, and what holds for every request of an engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_qnext.generate.engine import Engine


def limits_met(limit_tokens: int, left_out: int, room: int, asked: int) -> tuple[str, ...]:
    """Of a context of so many tokens: that messages are left out, and that there is less room than was asked for."""
    notices: list[str] = []
    if left_out:
        notices.append(
            f"The context of {limit_tokens} tokens was full: the oldest {left_out} messages are left out."
        )
    if asked > room:
        notices.append(f"The context has room for {room} more tokens, fewer than the {asked} asked for.")
    return tuple(notices)


def context_full(limit_tokens: int) -> str:
    """Where an answer ends for want of room."""
    return (
        f"The answer ends here because the context of {limit_tokens} tokens is full: start with a longer --context, "
        "or let the oldest turns be left out with --when-full drop."
    )


def lasting(engine: Engine, draft: int | None) -> Iterator[str]:
    """What holds for every request of this engine, with drafts of that depth, and is said once."""
    plan = engine.plan
    if not plan.complete:
        yield (
            f"{plan.share:.0%} of the experts find room in {plan.total_bytes / 1e9:.1f} GB; the others are read "
            "when they are needed, which takes its time."
        )
    if engine.store.pools and not engine.store.in_place:
        yield (
            "MLX does not see here what is written into its memory, so every expert that is read is copied once "
            "more, and none is read ahead."
        )
    if engine.model.mtp is None and draft != 0:
        yield (
            "This checkpoint has no MTP head, so nothing is drafted: qnext quantize MODEL DEST --mtp-from SOURCE "
            "makes one that has."
        )
