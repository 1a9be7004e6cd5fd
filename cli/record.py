"""One answer as `--json` prints it."""

from __future__ import annotations

import json

from mlx_qnext.generate.events import Finished


def record(result: Finished, model: str) -> str:
    """One line of JSON: `text`, `thinking`, `finish_reason`, `usage` in tokens, `speed`, and the model as it was named."""
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
        "model": model,
    }
    return json.dumps(facts, ensure_ascii=False)
