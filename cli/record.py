"""One answer as `--json` prints it."""

from __future__ import annotations

import json

from mlx_qnext.generate.events import ExpertStats, Finished, MemoryStats, MtpStats


def record(result: Finished, model: str) -> str:
    """One line of JSON: `text`, `thinking`, `finish_reason`, `thought_end`, `usage` in tokens, `speed`, `forecast`, `mtp`,
    `experts`, `memory`, and the model as it was named.

    `forecast` is what had been measured before for this model within this memory, without drafts; null where nothing had been.
    `mtp` says what drafting came to, and is null where nothing could draft; its `speedup_estimate` compares with a few plain
    steps of the same answer. `experts` is null where all were loaded before the first request, `memory` where nothing was
    planned. `thought_end` is `closed` where the model ended its thought, `budget` where that was used up, `unclosed` where
    the answer ended within it, and null where there was none. A tool call that the model makes although none was offered is in
    `text`, as it was written.
    """
    stats = result.stats
    facts = {
        "text": result.text,
        "thinking": result.thinking,
        "finish_reason": result.reason,
        "thought_end": result.thought_end,
        "usage": {
            "prompt_tokens": stats.prompt_tokens,
            "cached_tokens": stats.cached_tokens,
            "completion_tokens": stats.completion_tokens,
        },
        "speed": {
            "ttft_ms": round(stats.ttft_ms, 1),
            "prefill_tps": round(stats.prefill_tps, 1),
            "decode_tps": _tps(stats.decode_tps),
        },
        "forecast": None if stats.forecast_tps is None else {"decode_tps": _tps(stats.forecast_tps)},
        "mtp": None if stats.mtp is None else _mtp(stats.mtp),
        "experts": None if stats.experts is None else _experts(stats.experts),
        "memory": None if stats.memory is None else _memory(stats.memory),
        "model": model,
    }
    return json.dumps(facts, ensure_ascii=False)


def _tps(tps: float) -> float:
    """A model that is read from the disk may take seconds for a token."""
    return round(tps, 1 if tps >= 10 else 3)


def _mtp(mtp: MtpStats) -> dict[str, object]:
    speedup = mtp.speedup_estimate
    return {
        "rounds": mtp.rounds,
        "drafted": mtp.drafted,
        "accepted": mtp.accepted,
        "acceptance": [round(share, 3) for share in mtp.acceptance],
        "tokens_per_step": round(mtp.tokens_per_step, 2),
        "speedup_estimate": None if speedup is None else round(speedup, 2),
    }


def _experts(experts: ExpertStats) -> dict[str, object]:
    return {
        "hits": experts.hits,
        "misses": experts.misses,
        "hit_rate": round(experts.hit_rate, 4),
        "read_bytes": experts.read_bytes,
        "resident_bytes": experts.resident_bytes,
        "evicted": experts.evicted,
    }


def _memory(memory: MemoryStats) -> dict[str, object]:
    return {"planned_bytes": memory.planned_bytes, "peak_bytes": memory.peak_bytes}
