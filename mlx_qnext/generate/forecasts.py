"""What was forecast for a model and what came of it, remembered between runs and held against each other.

A figure is for one back end and one share of the experts in memory. One forecast and one run of each model are
remembered, the last ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import TypeVar

from mlx_qnext.errors import CheckpointError
from mlx_qnext.experts.plan import MemoryPlan
from mlx_qnext.experts.remembered import recalled, remember
from mlx_qnext.generate.events import GenerationStats
from mlx_qnext.json_fields import Fields
from mlx_qnext.ops.device import backend

_FOLDER = "forecasts"
# Shares of experts in memory that differ by no more than this part of the larger one count as the same.
_NEARLY = 0.1
# The rates of fewer tokens say nothing.
_LEAST_TOKENS = 8
_MOST_SECONDS = 1e5
_MOST_RATE = 1e15

T = TypeVar("T")


@dataclass(frozen=True)
class Forecast:
    """Plain decoding, without drafts and at a short context, as it can be expected.

    Attributes:
        step_s: seconds of one token's step with every expert that it needs in memory.
        read_bytes_per_s: of experts, as a step reads those that it lacks; `None` where in time all are in memory.
        hit_rate: the share of a step's experts that will be in memory.
        decode_tps: tokens per second that follow.
        hit_rate_seen: whether the hit rate is that of the last run; otherwise it is the share of experts that find room, which
            is what even routing comes to.
    """

    step_s: float
    read_bytes_per_s: float | None
    hit_rate: float
    decode_tps: float
    hit_rate_seen: bool = False

    @property
    def read_s(self) -> float:
        """Seconds that reading adds to a step."""
        return max(0.0, 1 / self.decode_tps - self.step_s)


@dataclass(frozen=True)
class PastForecast:
    """A forecast, and the day on which it was measured."""

    forecast: Forecast
    made_on: date


@dataclass(frozen=True)
class PastRun:
    """What decoding came to.

    Attributes:
        hit_rate: while decoding, without the prompt; with drafts it is that of verifications. decode_tps: without drafts, where
            something was drafted estimated from the answer's plain steps. total_bytes: of the plan.
    """

    hit_rate: float
    decode_tps: float
    total_bytes: int


def recall_forecast(key: str, share: float) -> PastForecast | None:
    """The last forecast, where it was for this model with nearly this share of experts in memory; else `None`.

    Args:
        key: the model's, as `hot_key` makes it. share: as `MemoryPlan.share`.
    """
    return _recall("forecast", key, share, _forecast_in)


def recall_run(key: str, share: float) -> PastRun | None:
    """As `recall_forecast`, the last run."""
    return _recall("run", key, share, _run_in)


def remember_forecast(key: str, share: float, forecast: Forecast, today: date | None = None) -> bool:
    """Whether `recall_forecast` now gives this one; `today` is the day of it, this day where it is `None`."""
    made_on = (today or date.today()).isoformat()
    return _remember("forecast", key, share, {**asdict(forecast), "made_on": made_on})


def remember_run(key: str, share: float, run: PastRun) -> bool:
    """Whether `recall_run` now gives this one."""
    return _remember("run", key, share, asdict(run))


@dataclass(frozen=True)
class Outlook:
    """What is remembered of one model within one plan."""

    key: str
    plan: MemoryPlan

    def beside(self, stats: GenerationStats, hit_rate: float) -> GenerationStats:
        """An answer's figures with the forecast beside them; they are remembered for the next.

        Args:
            hit_rate: while decoding.
        """
        plain_tps = _plain_tps(stats)
        if plain_tps and stats.completion_tokens >= _LEAST_TOKENS:
            run = PastRun(hit_rate, plain_tps, self.plan.total_bytes)
            remember_run(self.key, self.plan.share, run)
        past = recall_forecast(self.key, self.plan.share)
        return stats if past is None else replace(stats, forecast_tps=past.forecast.decode_tps)


def _plain_tps(stats: GenerationStats) -> float | None:
    """What decoding without drafts came to."""
    if stats.mtp is None or not stats.mtp.rounds:
        return stats.decode_tps
    gain = stats.mtp.speedup_estimate
    return stats.decode_tps / gain if gain else None


def _recall(entry: str, key: str, share: float, parse: Callable[[Fields], T]) -> T | None:
    try:
        fields = Fields(recalled(_FOLDER, key), _FOLDER).object(entry)
        theirs = fields.number("share", low=0, high=1)
        if fields.text("backend") == backend().value and _nearly(theirs, share):
            return parse(fields)
    except (CheckpointError, ValueError):
        return None
    return None


def _remember(entry: str, key: str, share: float, values: dict[str, object]) -> bool:
    content = recalled(_FOLDER, key)
    content[entry] = {**values, "share": share, "backend": backend().value}
    return remember(_FOLDER, key, content)


def _nearly(one: float, other: float) -> bool:
    """With all experts in memory nothing is read, so nearly all of them is not the same."""
    return (one == 1) == (other == 1) and abs(one - other) <= _NEARLY * max(one, other)


def _forecast_in(fields: Fields) -> PastForecast:
    forecast = Forecast(
        fields.number("step_s", low=0, high=_MOST_SECONDS),
        fields.optional_number("read_bytes_per_s", low=1, high=_MOST_RATE),
        fields.number("hit_rate", low=0, high=1),
        fields.number("decode_tps", low=1 / _MOST_SECONDS, high=_MOST_RATE),
        fields.flag("hit_rate_seen"),
    )
    return PastForecast(forecast, date.fromisoformat(fields.text("made_on")))


def _run_in(fields: Fields) -> PastRun:
    return PastRun(
        fields.number("hit_rate", low=0, high=1),
        fields.number("decode_tps", low=1 / _MOST_SECONDS, high=_MOST_RATE),
        fields.integer("total_bytes", low=1, high=int(_MOST_RATE)),
    )
