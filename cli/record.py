"""One answer as `--json` prints it."""

from __future__ import annotations

import json

from mlx_qnext.generate.events import Finished, MtpStats


def record(result: Finished, model: str) -> str:
    """One line of JSON: `text`, `thinking`, `finish_reason`, `usage` in tokens, `speed`, `mtp`, and the model as it was named.

    `mtp` says what drafting came to, and is null where nothing could draft; its `speedup_estimate` compares with a few plain
    steps of the same answer.
    """
    stats = result.stats
    facts = {
        "text": result.text,
        "thinking": result.thinking,
        "finish_reason": result.reason,
        "usage": {
            "prompt_tokens": stats.prompt_tokens,
            "cached_tokens": stats.cached_tokens,
            "completion_tokens": stats.completion_tokens,
        },
        "speed": {
            "ttft_ms": round(stats.ttft_ms, 1),
            "prefill_tps": round(stats.prefill_tps, 1),
            "decode_tps": round(stats.decode_tps, 1),
        },
        "mtp": None if stats.mtp is None else _mtp(stats.mtp),
        "model": model,
    }
    return json.dumps(facts, ensure_ascii=False)


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
