"""What is forecast follows from what was measured, and stands beside what came of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from itertools import count, pairwise
from pathlib import Path
from statistics import median

import pytest
from fakes.engine import STATS, finished
from hypothesis import given
from hypothesis import strategies as st

import mlx_qnext
from cli.main import main
from cli.record import record
from cli.views.forecast import forecast_text
from cli.views.stats import stats_line
from mlx_qnext import Engine, GenerationConfig
from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.config import ModelConfig
from mlx_qnext.experts.hot import load_hot
from mlx_qnext.experts.plan import MemoryNeeds
from mlx_qnext.generate import engine as engines
from mlx_qnext.generate import forecast as forecasting
from mlx_qnext.generate import session as sessions
from mlx_qnext.generate.events import Finished, GenerationStats, MtpStats
from mlx_qnext.generate.forecast import decode_tps, forecast
from mlx_qnext.generate.forecasts import (
    Forecast,
    Outlook,
    PastRun,
    recall_run,
    remember_forecast,
    remember_run,
)
from mlx_qnext.hub import resolve

KEY = "0123abcd"
DAY = date(2026, 3, 9)
MADE = Forecast(4.0, 1.5e9, 0.25, 0.2)
RUN = PastRun(0.75, 0.21, 8_000_000_000)
CONTEXT = 256
# The embedded model's trunk layers, its experts a token, and the seconds of each of them in turn on the clock below.
LAYERS, TOP_K = 8, 4
STEPS_S = (9.0, 2.0, 3.0, 4.0, 1.0, 2.0)
READ_S = 0.5


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QNEXT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def smallest_bytes() -> int:
    checkpoint = Checkpoint.open(resolve("demo"))
    return MemoryNeeds.of(checkpoint, ModelConfig.from_dict(checkpoint.config), CONTEXT).smallest_bytes


@pytest.fixture
def streaming() -> Iterator[Engine]:
    engine = mlx_qnext.load("demo", memory_bytes=smallest_bytes(), context_tokens=CONTEXT)
    assert not engine.plan.complete
    yield engine
    engine.close()


def clock(durations: Iterator[float], notice: Callable[[], object] = int) -> Callable[[], float]:
    """A clock that is asked before and after each duration."""
    now = 0.0
    asked = count()

    def tell() -> float:
        nonlocal now
        notice()
        if next(asked) % 2:
            now += next(durations)
        return now

    return tell


def durations() -> Iterator[float]:
    yield from STEPS_S
    while True:
        yield READ_S


class TestMeasuring:
    def test_it_follows_from_the_median_step_and_the_reading_of_a_tokens_misses(
        self, streaming: Engine
    ) -> None:
        before = streaming.store.counts.misses
        found = forecast(streaming, clock=clock(durations()))
        share, expert_bytes = streaming.plan.share, next(iter(streaming.store.pools.values())).stored.nbytes
        misses = round((1 - share) * TOP_K)
        speed = misses * expert_bytes / READ_S
        assert (found.step_s, found.hit_rate, found.hit_rate_seen) == (median(STEPS_S), share, False)
        assert found.read_bytes_per_s == pytest.approx(speed)
        lacking = (1 - share) * TOP_K * LAYERS * expert_bytes
        assert found.decode_tps == pytest.approx(1 / (median(STEPS_S) + lacking / speed))
        assert found.read_s == pytest.approx(lacking / speed)
        assert streaming.store.counts.misses >= before + misses * LAYERS

    def test_a_step_is_timed_with_all_that_it_needs_in_memory(self, streaming: Engine) -> None:
        misses: list[int] = []
        forecast(streaming, clock=clock(durations(), lambda: misses.append(streaming.store.counts.misses)))
        timed = misses[: 2 * len(STEPS_S)]
        assert timed[::2] == timed[1::2]
        assert timed[0] < timed[-1]

    def test_where_all_find_room_nothing_is_read_and_the_step_is_all(self, engine: Engine) -> None:
        engine.store.wait_until_filled()
        before = engine.store.counts.read_bytes
        found = forecast(engine, clock=clock(iter(STEPS_S)))
        assert found == Forecast(median(STEPS_S), None, 1.0, 1 / median(STEPS_S))
        assert engine.store.counts.read_bytes == before

    def test_a_large_model_that_is_still_being_read_is_not_waited_for(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(forecasting, "WORTH_REMEMBERING_BYTES", 1)
        monkeypatch.setattr(engine.store, "wait_until_filled", lambda: pytest.fail("waited"))
        assert forecast(engine, clock=clock(iter(STEPS_S))).read_bytes_per_s is None

    def test_the_hit_rate_is_the_last_runs_where_that_had_as_many_in_memory(self, streaming: Engine) -> None:
        share = streaming.plan.share
        remember_run(streaming.key, min(1.0, 2 * share), RUN)
        assert forecast(streaming).hit_rate == share
        remember_run(streaming.key, share, RUN)
        found = forecast(streaming)
        assert (found.hit_rate, found.hit_rate_seen) == (RUN.hit_rate, True)

    def test_progress_is_told_from_the_first_step_to_the_last(self, streaming: Engine) -> None:
        told: list[tuple[int, int]] = []
        forecast(streaming, lambda done, total: told.append((done, total)))
        assert [done for done, _ in told] == list(range(told[-1][1] + 1))

    def test_it_leaves_what_is_remembered_as_hot(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engines, "WORTH_REMEMBERING_BYTES", 1)
        answered = mlx_qnext.load("demo")
        answered.close()
        hot = load_hot(answered.key)
        assert hot
        measured = mlx_qnext.load("demo", memory_bytes=smallest_bytes(), context_tokens=CONTEXT)
        forecast(measured)
        measured.close()
        assert load_hot(measured.key) == hot

    def test_an_interrupt_lets_the_background_go_on(self, streaming: Engine) -> None:
        def interrupted(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            forecast(streaming, interrupted)
        streaming.store.shrink(0.0, TOP_K)

    @given(st.floats(1e-3, 1e3), st.floats(0, 1e12), st.floats(1e6, 1e11))
    def test_reading_only_ever_slows_down(self, step_s: float, lacking: float, speed: float) -> None:
        assert decode_tps(step_s, 0.0, speed) == decode_tps(step_s, lacking, None) == 1 / step_s
        rates = [decode_tps(step_s, part * lacking, speed) for part in (0.0, 0.5, 1.0)]
        assert all(faster >= slower for faster, slower in pairwise(rates))


class TestAfterARun:
    def beside(self, engine: Engine, stats: GenerationStats, hit_rate: float = 0.5) -> GenerationStats:
        return Outlook(KEY, engine.plan).beside(stats, hit_rate)

    def test_the_forecast_stands_beside_the_fact(self, engine: Engine) -> None:
        assert self.beside(engine, STATS) == STATS
        remember_forecast(KEY, engine.plan.share, MADE)
        assert self.beside(engine, STATS) == replace(STATS, forecast_tps=MADE.decode_tps)

    def test_the_fact_is_remembered_without_the_gain_of_drafts(self, engine: Engine) -> None:
        share, total = engine.plan.share, engine.plan.total_bytes
        self.beside(engine, STATS)
        assert recall_run(KEY, share) == PastRun(0.5, STATS.decode_tps, total)
        drafted = replace(STATS, mtp=MtpStats(26, 52, 47, (0.96, 0.85), 2.57, 2.0))
        self.beside(engine, drafted, 0.75)
        assert recall_run(KEY, share) == PastRun(0.75, STATS.decode_tps / 2, total)

    def test_an_answer_of_a_few_words_says_nothing(self, engine: Engine) -> None:
        self.beside(engine, replace(STATS, completion_tokens=3))
        assert recall_run(KEY, engine.plan.share) is None

    def test_a_session_counts_the_hits_of_decoding_alone(
        self, streaming: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sessions, "WORTH_REMEMBERING_BYTES", 1)
        remember_forecast(streaming.key, streaming.plan.share, MADE)
        stats = answered(streaming)
        run = recall_run(streaming.key, streaming.plan.share)
        assert stats.forecast_tps == MADE.decode_tps
        assert run is not None
        assert stats.experts is not None
        assert run.decode_tps == stats.decode_tps
        assert 0 < run.hit_rate < 1
        assert run.hit_rate != stats.experts.hit_rate

    def test_a_small_model_leaves_nothing(self, streaming: Engine, cache: Path) -> None:
        assert answered(streaming).forecast_tps is None
        assert not cache.exists()


def answered(engine: Engine) -> GenerationStats:
    config = GenerationConfig(temperature=0.0, max_tokens=12, draft=0)
    *_, last = engine.session().generate([{"role": "user", "content": "What is 47 + 85?"}], config)
    assert isinstance(last, Finished)
    return last.stats


STREAMED = {
    "measured": "2026-03-09",
    "decode_tps": 0.2,
    "step_s": 4.0,
    "read_s": 1.0,
    "read_bytes_per_s": 1_500_000_000,
    "hit_rate": 0.25,
    "hit_rate_from": "the share in memory",
    "run": None,
}


class TestShowing:
    def test_it_is_labelled_and_says_what_it_follows_from(self) -> None:
        assert forecast_text(STREAMED).splitlines() == [
            "forecast, measured here on 2026-03-09: 0.2 tok/s without drafts",
            "4.0 s a step and 1.0 s to read what it lacks, at 1.50 GB/s; experts hit 25 %, the share that finds room",
        ]

    def test_the_last_run_stands_beside_it(self) -> None:
        facts = STREAMED | {
            "hit_rate_from": "the last run",
            "run": {"decode_tps": 0.213, "hit_rate": 0.31},
        }
        assert forecast_text(facts).splitlines()[1:] == [
            "4.0 s a step and 1.0 s to read what it lacks, at 1.50 GB/s; experts hit 25 %, as in the last run",
            "the last run: 0.21 tok/s, experts hit 31 %",
        ]

    def test_with_room_for_all_it_says_when(self) -> None:
        facts = STREAMED | {"step_s": 0.011, "read_bytes_per_s": None, "decode_tps": 91.2}
        assert forecast_text(facts).splitlines() == [
            "forecast, measured here on 2026-03-09: 91.2 tok/s without drafts",
            "0.011 s a step, when everything is in memory",
        ]

    def test_the_figures_of_an_answer_hold_both(self) -> None:
        slow = replace(STATS, decode_tps=0.213, forecast_tps=0.2)
        assert stats_line(finished(stats=slow)).startswith("77 tokens · 0.21 tok/s (forecast 0.2 tok/s) · ")
        drafted = replace(slow, mtp=MtpStats(26, 52, 47, (0.96,), 2.57, 1.6))
        assert "0.21 tok/s (forecast 0.2 tok/s without drafts) · " in stats_line(finished(stats=drafted))
        said = json.loads(record(finished(stats=slow), "demo"))
        assert (said["speed"]["decode_tps"], said["forecast"]) == (0.213, {"decode_tps": 0.2})
        assert json.loads(record(finished(), "demo"))["forecast"] is None


class TestInspect:
    def run(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
    ) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["qnext", "inspect", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return left.value.code, out, err

    def test_a_forecast_is_measured_where_it_is_asked_for(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path
    ) -> None:
        within = ("--memory", str(smallest_bytes()), "--context", str(CONTEXT))
        code, out, _ = self.run(monkeypatch, capsys, "demo", "--forecast", "--json", *within)
        found = json.loads(out)["forecast"]
        assert code == 0
        assert set(found) == set(STREAMED)
        assert found["decode_tps"] > 0
        assert found["read_bytes_per_s"] > 0
        assert not cache.exists()
        assert json.loads(self.run(monkeypatch, capsys, "demo", "--json")[1])["forecast"] is None

    def test_a_remembered_one_is_shown_with_its_day_and_loads_nothing(
        self, streaming: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        remember_forecast(streaming.key, streaming.plan.share, MADE, DAY)
        remember_run(streaming.key, streaming.plan.share, RUN)
        monkeypatch.setattr(engines, "load", lambda *_, **__: pytest.fail("loaded"))
        within = ("--memory", str(smallest_bytes()), "--context", str(CONTEXT))
        found = json.loads(self.run(monkeypatch, capsys, "demo", "--json", *within)[1])["forecast"]
        assert found == STREAMED | {"run": {"decode_tps": 0.21, "hit_rate": 0.75}}
        out = self.run(monkeypatch, capsys, "demo", *within)[1]
        assert "forecast, measured here on 2026-03-09: 0.2 tok/s" in out
        assert "the last run: 0.21 tok/s, experts hit 75 %" in out
        assert "forecast" not in self.run(monkeypatch, capsys, "demo")[1]

    def test_it_and_routing_are_two_questions(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, out, err = self.run(monkeypatch, capsys, "demo", "--forecast", "--routing", "-")
        assert (code, out, err.count("\n")) == (2, "", 1)
