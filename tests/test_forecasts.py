"""A forecast and a run are remembered for one model, share in memory and back end, and damage to them costs nothing else."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_qnext.generate.forecasts import (
    Forecast,
    PastForecast,
    PastRun,
    recall_forecast,
    recall_run,
    remember_forecast,
    remember_run,
)

KEY = "0123abcd"
DAY = date(2026, 3, 9)
MADE = Forecast(4.0, 1.5e9, 0.25, 0.2)
RUN = PastRun(0.75, 0.21, 8_000_000_000)

FOREIGN = {
    "nothing": b"",
    "half of it": b'{"forecast": {"step_s": 4.0',
    "a list": b"[1]",
    "another object": b'{"experts": {}}',
    "no objects": b'{"forecast": 3, "run": "x"}',
    "a tower of brackets": b'{"run": ' + b"[" * 100_000,
}
SPOILT = [
    ("step_s", "4"),
    ("step_s", -1),
    ("decode_tps", 0),
    ("decode_tps", None),
    ("hit_rate", 1.5),
    ("hit_rate_seen", 1),
    ("read_bytes_per_s", True),
    ("made_on", "yesterday"),
    ("share", None),
    ("backend", 3),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QNEXT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@given(
    st.floats(1e-4, 1e3),
    st.none() | st.floats(1e3, 1e12),
    st.floats(0, 1),
    st.floats(1e-4, 1e4),
    st.booleans(),
    st.dates(),
    st.floats(0, 1),
)
def test_what_is_remembered_is_recalled(
    step_s: float,
    read: float | None,
    hits: float,
    tps: float,
    seen: bool,
    day: date,
    share: float,
) -> None:
    made = Forecast(step_s, read, hits, tps, seen)
    assert remember_forecast(KEY, share, made, day)
    assert recall_forecast(KEY, share) == PastForecast(made, day)


def test_a_forecast_and_a_run_stand_beside_each_other() -> None:
    remember_forecast(KEY, 0.09, MADE, DAY)
    remember_run(KEY, 0.09, RUN)
    assert recall_forecast(KEY, 0.09) == PastForecast(MADE, DAY)
    assert recall_run(KEY, 0.09) == RUN
    assert recall_run("another", 0.09) is None


@pytest.mark.parametrize(
    ("share", "same"),
    [(0.5, True), (0.54, True), (0.46, True), (0.6, False), (0.4, False), (1.0, False)],
)
def test_it_is_for_nearly_the_same_share_in_memory(share: float, *, same: bool) -> None:
    remember_run(KEY, 0.5, RUN)
    assert (recall_run(KEY, share) == RUN) is same


def test_nearly_all_in_memory_is_not_all() -> None:
    remember_run(KEY, 0.98, RUN)
    assert recall_run(KEY, 1.0) is None


def test_it_is_for_one_back_end(cache: Path) -> None:
    remember_run(KEY, 0.5, RUN)
    file = cache / "forecasts" / f"{KEY}.json"
    file.write_text(file.read_text().replace('"cpu"', '"metal"'))
    assert recall_run(KEY, 0.5) is None


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_what_is_damaged_or_foreign_counts_for_nothing_and_is_replaced(cache: Path, content: bytes) -> None:
    (cache / "forecasts").mkdir(parents=True)
    (cache / "forecasts" / f"{KEY}.json").write_bytes(content)
    assert (recall_forecast(KEY, 0.5), recall_run(KEY, 0.5)) == (None, None)
    assert remember_run(KEY, 0.5, RUN)
    assert recall_run(KEY, 0.5) == RUN


@pytest.mark.parametrize(("name", "value"), SPOILT)
def test_a_field_that_cannot_be_meant_spoils_it(cache: Path, name: str, value: object) -> None:
    remember_forecast(KEY, 0.5, MADE, DAY)
    file = cache / "forecasts" / f"{KEY}.json"
    content = json.loads(file.read_text())
    content["forecast"][name] = value
    file.write_text(json.dumps(content))
    assert recall_forecast(KEY, 0.5) is None


def test_a_cache_that_cannot_be_written_is_no_failure(cache: Path) -> None:
    cache.write_text("a file where a folder should be")
    assert not remember_forecast(KEY, 0.5, MADE)
