"""`qnext inspect --forecast`: how fast a model will decode here, as facts."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from cli import terminal
from cli.loading import load_engine
from cli.options import Room
from cli.views.progress import Progress
from mlx_qnext.errors import CheckpointError

if TYPE_CHECKING:
    from mlx_qnext.checkpoint import Checkpoint
    from mlx_qnext.generate.forecasts import PastForecast, PastRun


def measured_forecast(model: str, room: Room) -> dict[str, Any]:
    """Load the model and measure; models that are worth a file in the cache are remembered.

    Raises:
        QnextError: as `mlx_qnext.load`. CheckpointError: an expert cannot be read.
    """
    err = terminal.err()
    engine = load_engine(model, err, room)
    from datetime import date

    from mlx_qnext.experts.remembered import WORTH_REMEMBERING_BYTES
    from mlx_qnext.generate.forecast import forecast
    from mlx_qnext.generate.forecasts import PastForecast, recall_run, remember_forecast

    with closing(engine), Progress(err, "Measuring steps", "count") as progress:
        found = forecast(engine, progress.update)
    if engine.store.total_bytes >= WORTH_REMEMBERING_BYTES:
        remember_forecast(engine.key, engine.plan.share, found)
    return _facts(PastForecast(found, date.today()), recall_run(engine.key, engine.plan.share))


def recalled_forecast(checkpoint: Checkpoint, share: float) -> dict[str, Any] | None:
    """The forecast that is remembered for these weights with nearly this share of experts in memory; `None` where there is
    none, or the files are not on this disk."""
    from mlx_qnext.experts.hot import hot_key
    from mlx_qnext.generate.forecasts import recall_forecast, recall_run

    with suppress(CheckpointError):
        key = hot_key(checkpoint)
        past = recall_forecast(key, share)
        return None if past is None else _facts(past, recall_run(key, share))
    return None


def _facts(past: PastForecast, run: PastRun | None) -> dict[str, Any]:
    """`run` is what the last run came to, beside what was forecast."""
    found = past.forecast
    speed = found.read_bytes_per_s
    return {
        "measured": past.made_on.isoformat(),
        "decode_tps": round(found.decode_tps, 4),
        "step_s": round(found.step_s, 5),
        "read_s": round(found.read_s, 5),
        "read_bytes_per_s": None if speed is None else round(speed),
        "hit_rate": round(found.hit_rate, 4),
        "hit_rate_from": "the last run" if found.hit_rate_seen else "the share in memory",
        "run": run and {"decode_tps": round(run.decode_tps, 4), "hit_rate": round(run.hit_rate, 4)},
    }
