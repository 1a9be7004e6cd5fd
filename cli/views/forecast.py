"""A forecast in words."""

from __future__ import annotations

from typing import Any

from cli.views.units import percent, rate, seconds, size

_REASONS = {"the last run": "as in the last run", "the share in memory": "the share that finds room"}


def forecast_text(forecast: dict[str, Any]) -> str:
    """Lines that say what was measured and what follows; and what the last run came to, where one is remembered."""
    lines = [
        f"forecast, measured here on {forecast['measured']}: {rate(forecast['decode_tps'])} without drafts",
        _parts(forecast),
    ]
    if forecast["run"] is not None:
        run = forecast["run"]
        lines.append(f"the last run: {rate(run['decode_tps'])}, {_hits(run['hit_rate'])}")
    return "\n".join(lines)


def _parts(forecast: dict[str, Any]) -> str:
    step = seconds(forecast["step_s"])
    if forecast["read_bytes_per_s"] is None:
        return f"{step} a step, when everything is in memory"
    return (
        f"{step} a step and {seconds(forecast['read_s'])} to read what it lacks, at "
        f"{size(forecast['read_bytes_per_s'])}/s; {_hits(forecast['hit_rate'])}, {_REASONS[forecast['hit_rate_from']]}"
    )


def _hits(hit_rate: float) -> str:
    return f"experts hit {percent(hit_rate)}"
