"""One answer's figures in words."""

from __future__ import annotations

from rich.console import Console

from cli.terminal import note
from cli.views.status import Part, Setting, context_text, fitted, model_parts
from cli.views.units import percent, rate, seconds, size, token_count
from mlx_qnext.generate.events import ExpertStats, Finished, GenerationStats, MemoryStats, MtpStats

_ENDINGS = {"stop": "", "length": "cut off at the token limit", "cancelled": "stopped"}
_UNNAMED = Setting()


def stats_line(result: Finished, setting: Setting = _UNNAMED, width: int | None = None) -> str:
    """The model, tokens, speed, what drafting came to, how experts were read, first token, prompt, what the cache spared,
    context and memory, and how it ended where that is not plain.

    Within a width the least important of them are left out.
    """
    stats = result.stats
    parts = [*model_parts(setting), Part(token_count(stats.completion_tokens))]
    if stats.decode_tps:
        parts += _speed(stats)
    if stats.mtp is not None and stats.mtp.rounds:
        parts += _drafting(stats.mtp)
    if stats.experts is not None and stats.experts.read_bytes:
        parts += _reading(stats.experts)
    parts += _prompt(stats)
    if setting.context_tokens is not None:
        used = stats.prompt_tokens + stats.completion_tokens
        parts.append(Part(context_text(used, setting.context_tokens), 5))
    if stats.memory is not None:
        parts.append(_memory(stats.memory))
    parts += [Part(ending) for ending in [_ending(result)] if ending]
    return fitted(parts, width)


def _ending(result: Finished) -> str:
    unclosed = result.reason == "length" and result.thought_end == "unclosed"
    return ("thought " if unclosed else "") + _ENDINGS[result.reason]


def print_stats(err: Console, result: Finished, setting: Setting) -> None:
    """Print the line, as wide as the terminal, or whole where there is none."""
    note(err, stats_line(result, setting, err.width if err.is_terminal else None))


def _speed(stats: GenerationStats) -> list[Part]:
    """The fact, and beside it the forecast, which knows no drafts."""
    parts = [Part(rate(stats.decode_tps), 1)]
    if stats.forecast_tps is not None:
        drafted = stats.mtp is not None and stats.mtp.rounds
        forecast = f"(forecast {rate(stats.forecast_tps)}{' without drafts' if drafted else ''})"
        parts.append(Part(forecast, 9, " "))
    return parts


def _drafting(mtp: MtpStats) -> list[Part]:
    """Tokens a step, the share of drafts that stood at each depth, and the estimated gain."""
    shares = ", ".join(f"{100 * share:.0f}" for share in mtp.acceptance)
    parts = [Part(f"{mtp.tokens_per_step:.1f} a step", 3), Part(f"drafts stood {shares} %", 5)]
    if mtp.speedup_estimate is not None:
        parts.append(Part(f"{mtp.speedup_estimate:.1f}× plain (estimate)", 8))
    return parts


def _reading(experts: ExpertStats) -> list[Part]:
    """How often an expert was there when it was asked for, what was read, and how much of all is in memory now."""
    return [
        Part(f"experts hit {percent(experts.hit_rate)}", 4),
        Part(f"read {size(experts.read_bytes)}", 6, ", "),
        Part(f"{percent(experts.resident_share)} in memory", 8, ", "),
    ]


def _prompt(stats: GenerationStats) -> list[Part]:
    parts = []
    if stats.completion_tokens:
        parts.append(Part(f"first after {seconds(stats.ttft_ms / 1e3)}", 2))
    parts.append(Part(f"prompt {stats.prompt_tokens}", 3))
    if stats.cached_tokens:
        parts.append(Part(f"({stats.cached_tokens} cached)", 4, " "))
    if stats.prefill_tps and stats.prompt_tokens > stats.cached_tokens:
        parts.append(Part(f"at {rate(stats.prefill_tps)}", 6, " "))
    return parts


def _memory(memory: MemoryStats) -> Part:
    return Part(f"memory {size(memory.peak_bytes)} of {size(memory.planned_bytes)}", 7)
