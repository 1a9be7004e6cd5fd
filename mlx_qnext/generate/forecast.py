"""How fast a loaded model will decode here: a step and the reading of experts, each measured by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from mlx_qnext.cache.hybrid import HybridCache
from mlx_qnext.checkpoint import MTP_PREFIX
from mlx_qnext.experts.pool import Pool
from mlx_qnext.experts.remembered import WORTH_REMEMBERING_BYTES
from mlx_qnext.generate.decode import decode, step
from mlx_qnext.generate.forecasts import Forecast, recall_run
from mlx_qnext.generate.sampler import Sampler
from mlx_qnext.generate.sampling import Sampling
from mlx_qnext.generate.timeline import Timeline

if TYPE_CHECKING:
    from mlx_qnext.generate.engine import Engine

_PROMPT = "The sum"
_STEPS, _WARM_UP = 6, 2
_GREEDY = Sampling(0.0, 0, 1.0, 0.0, 1.0, 0.0)


def forecast(
    engine: Engine,
    on_step: Callable[[int, int], object] = lambda _done, _total: None,
    clock: Callable[[], float] = perf_counter,
) -> Forecast:
    """Measure plain decoding of a few tokens, and where experts will have to be read, the reading of one token's.

    `decode_tps` = 1 / (`step_s` + what a token lacks / `read_bytes_per_s`), and a token lacks (1 - `hit_rate`) of the experts
    that it visits. Reading overlaps with what is computed for the experts of the same layer that are present. That is not
    deducted: where much is read few are present, and where nearly all are little is read. So the forecast is rather too low.

    With room for all experts it is for the time when all are in memory. Where the background still brings them, it is not
    waited for; then what is measured contains the asking for them, and is again rather too low.

    Args:
        on_step: called with steps done and total, before and after each. clock: seconds.

    Raises:
        CheckpointError: an expert cannot be read.
    """
    store = engine.store
    store.asked_by_user = False
    if engine.plan.complete and store.total_bytes < WORTH_REMEMBERING_BYTES:
        store.wait_until_filled()
    with store.undisturbed():
        step_s = median(_watched(_Steps(engine, clock).seconds(), on_step))
        if engine.plan.complete:
            return Forecast(step_s, None, 1.0, 1 / step_s)
        run = recall_run(engine.key, engine.plan.share)
        hit_rate = engine.plan.share if run is None else run.hit_rate
        read_bytes_per_s = _read_speed(engine, hit_rate, clock)
    pools = _decoding_pools(engine)
    visited_bytes = engine.config.num_experts_per_tok * sum(pool.stored.nbytes for pool in pools)
    tps = decode_tps(step_s, (1 - hit_rate) * visited_bytes, read_bytes_per_s)
    return Forecast(step_s, read_bytes_per_s, hit_rate, tps, hit_rate_seen=run is not None)


def decode_tps(step_s: float, lacking_bytes: float, read_bytes_per_s: float | None) -> float:
    """Tokens per second where each token's step comes after the reading of what it lacks."""
    return 1 / (step_s + (lacking_bytes / read_bytes_per_s if read_bytes_per_s else 0.0))


class _Steps:
    """Plain decoding after a short prompt, step by step."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._model, self._clock = engine.model, clock
        self._timeline = Timeline(HybridCache(engine.model.make_cache()))
        self._prompt = engine.tokenizer.encode(_PROMPT)
        self._sampler = Sampler(_GREEDY, engine.config.vocab_size, self._prompt, seed=0)

    def seconds(self) -> Iterator[float]:
        """What each of a few steps takes with all that it needs in memory."""
        states = self._model.hidden(mx.array([self._prompt]), self._timeline.cache.layers)
        self._timeline.append(self._prompt)
        yield from (self._in_a_row if self._model.complete else self._twice_each)(states[:, -1:])

    def _in_a_row(self, hidden: mx.array) -> Iterator[float]:
        """As answers are decoded, each step queued before the last one's token is read."""
        groups = decode(self._model, self._timeline, hidden, self._sampler)
        # The first ones compile, and fill the queue.
        for _ in range(_WARM_UP):
            next(groups)
        for _ in range(_STEPS):
            start = self._clock()
            next(groups)
            yield self._clock() - start

    def _twice_each(self, hidden: mx.array) -> Iterator[float]:
        """Each step brings the experts that it needs, is taken back, and is timed when it comes again."""
        token = self._sampler(self._model.logits(hidden)[0, -1])
        for _ in range(_STEPS):
            mx.eval(token, self._timeline.cache.arrays())
            self._timeline.remember()
            self._step(token)
            self._timeline.restore()
            start = self._clock()
            following = self._step(token)
            yield self._clock() - start
            token = following

    def _step(self, token: mx.array) -> mx.array:
        """Run a token; returns the next one when everything is computed."""
        following = step(self._model, self._timeline, token, self._sampler)[2]
        mx.eval(following, self._timeline.cache.arrays())
        return following


def _watched(seconds: Iterator[float], on_step: Callable[[int, int], object]) -> Iterator[float]:
    on_step(0, _STEPS)
    for done, value in enumerate(seconds, 1):
        on_step(done, _STEPS)
        yield value


def _read_speed(engine: Engine, hit_rate: float, clock: Callable[[], float]) -> float | None:
    """Bytes per second of one token's misses, drawn among the experts that are absent and read as its visits would read them,
    layer by layer; `None` where none is absent."""
    misses = max(1, round((1 - hit_rate) * engine.config.num_experts_per_tok))
    draw = np.random.default_rng(0)
    read_bytes, taken_s = 0, 0.0
    for pool in _decoding_pools(engine):
        absent = np.flatnonzero(pool.table.slots_of(np.arange(pool.stored.routed)) < 0)
        experts = draw.permutation(absent)[:misses]
        before, start = pool.counts.read_bytes, clock()
        for _ in pool.serve(experts[None]):
            pass
        taken_s += clock() - start
        read_bytes += pool.counts.read_bytes - before
    return read_bytes / taken_s if read_bytes else None


def _decoding_pools(engine: Engine) -> list[Pool]:
    """Of the layers that plain decoding goes through."""
    return [pool for path, pool in engine.store.pools.items() if not path.startswith(MTP_PREFIX)]
