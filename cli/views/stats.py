"""One answer's figures in words."""

from __future__ import annotations

from mlx_qnext.generate.events import Finished, MtpStats

_ENDINGS = {"stop": "", "length": "cut off at the token limit", "cancelled": "stopped"}


def stats_line(result: Finished) -> str:
    """Tokens, speed, what drafting came to, first token, what the cache spared, and how it ended where that is not plain."""
    stats = result.stats
    parts = [f"{stats.completion_tokens} tokens"]
    if stats.decode_tps:
        parts.append(f"{stats.decode_tps:.1f} tok/s")
    if stats.mtp is not None and stats.mtp.rounds:
        parts += _drafting(stats.mtp)
    if stats.completion_tokens:
        parts.append(f"first after {seconds(stats.ttft_ms / 1e3)}")
    parts.append(f"prompt {stats.prompt_tokens}" + _cached(stats.cached_tokens))
    parts += [ending for ending in [_ENDINGS[result.reason]] if ending]
    return " · ".join(parts)


def seconds(value: float) -> str:
    """A duration as people read one: 0.13 s, 12 s, 3 min 5 s."""
    if value < 10:
        return f"{value:.2g} s" if value < 1 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _drafting(mtp: MtpStats) -> list[str]:
    """Tokens a step, the share of drafts that stood at each depth, and the estimated gain."""
    shares = ", ".join(f"{100 * share:.0f}" for share in mtp.acceptance)
    parts = [f"{mtp.tokens_per_step:.1f} a step", f"drafts stood {shares} %"]
    if mtp.speedup_estimate is not None:
        parts.append(f"{mtp.speedup_estimate:.1f}× plain (estimate)")
    return parts


def _cached(tokens: int) -> str:
    return f" ({tokens} cached)" if tokens else ""
