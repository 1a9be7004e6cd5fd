"""One answer's figures in words."""

from __future__ import annotations

from cli.views.units import percent, rate, seconds, size
from mlx_qnext.generate.events import ExpertStats, Finished, GenerationStats, MtpStats

_ENDINGS = {"stop": "", "length": "cut off at the token limit", "cancelled": "stopped"}


def stats_line(result: Finished) -> str:
    """Tokens, speed, what drafting came to, how experts were read, first token, what the cache spared, and how it ended
    where that is not plain."""
    stats = result.stats
    parts = [f"{stats.completion_tokens} tokens"]
    if stats.decode_tps:
        parts.append(_speed(stats))
    if stats.mtp is not None and stats.mtp.rounds:
        parts += _drafting(stats.mtp)
    if stats.experts is not None and stats.experts.read_bytes:
        parts.append(_reading(stats.experts))
    if stats.completion_tokens:
        parts.append(f"first after {seconds(stats.ttft_ms / 1e3)}")
    parts.append(f"prompt {stats.prompt_tokens}" + _cached(stats.cached_tokens))
    parts += [ending for ending in [_ENDINGS[result.reason]] if ending]
    return " · ".join(parts)


def _speed(stats: GenerationStats) -> str:
    """The fact, and beside it the forecast, which knows no drafts."""
    fact = rate(stats.decode_tps)
    if stats.forecast_tps is None:
        return fact
    drafted = stats.mtp is not None and stats.mtp.rounds
    return f"{fact} (forecast {rate(stats.forecast_tps)}{' without drafts' if drafted else ''})"


def _drafting(mtp: MtpStats) -> list[str]:
    """Tokens a step, the share of drafts that stood at each depth, and the estimated gain."""
    shares = ", ".join(f"{100 * share:.0f}" for share in mtp.acceptance)
    parts = [f"{mtp.tokens_per_step:.1f} a step", f"drafts stood {shares} %"]
    if mtp.speedup_estimate is not None:
        parts.append(f"{mtp.speedup_estimate:.1f}× plain (estimate)")
    return parts


def _reading(experts: ExpertStats) -> str:
    """How often an expert was there when it was asked for, what was read, and how much of all is in memory now."""
    return (
        f"experts hit {percent(experts.hit_rate)}, read {size(experts.read_bytes)}, "
        f"{percent(experts.resident_share)} in memory"
    )


def _cached(tokens: int) -> str:
    return f" ({tokens} cached)" if tokens else ""
