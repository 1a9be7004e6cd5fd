"""Times the same work through this engine and through mlx-lm, each by the path its users run."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from time import perf_counter
from typing import Any

import mlx.core as mx

from mlx_qnext.cache.hybrid import HybridCache
from mlx_qnext.generate.decode import decode
from mlx_qnext.generate.prefill import prefill
from mlx_qnext.generate.sampler import Sampler
from mlx_qnext.generate.sampling import Sampling
from mlx_qnext.generate.timeline import Timeline
from mlx_qnext.model.qwen3_next import Model

GREEDY = Sampling(0.0, 0, 1.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Timing:
    """One run: a prompt, then tokens one after another."""

    prefill_s: float
    decode_s: float
    prompt_tokens: int
    decoded_tokens: int

    @property
    def prefill_tps(self) -> float:
        """Prompt tokens per second, to the first token sampled."""
        return self.prompt_tokens / self.prefill_s

    @property
    def decode_tps(self) -> float:
        """Tokens per second after the first."""
        return self.decoded_tokens / self.decode_s


Runner = Callable[[list[int], int], Timing]


def own(model: Model) -> Runner:
    """The engine's prefill and decode, as a session runs them."""

    def run(prompt: list[int], count: int) -> Timing:
        timeline = Timeline(HybridCache(model.make_cache()))
        start = perf_counter()
        *_, read = prefill(model, timeline, prompt)
        hidden = read.hidden
        groups = decode(model, timeline, hidden, Sampler(GREEDY, model.config.vocab_size, [], seed=0))
        return _timed(groups, start, len(prompt), count)

    return run


def mlx_lm(model: Any, prefill_step_size: int = 2048) -> Runner:
    """mlx-lm's `generate_step`, on which its chat, server and `generate` stand."""
    from mlx_lm.generate import generate_step

    def run(prompt: list[int], count: int) -> Timing:
        start = perf_counter()
        steps = generate_step(
            mx.array(prompt), model, max_tokens=count + 1, prefill_step_size=prefill_step_size
        )
        return _timed(steps, start, len(prompt), count)

    return run


def _timed(steps: Any, start: float, prompt_tokens: int, count: int) -> Timing:
    next(steps)
    first = perf_counter()
    for _ in range(count):
        next(steps)
    return Timing(first - start, perf_counter() - first, prompt_tokens, count)


def prompt_of(length: int, vocabulary: int) -> list[int]:
    """A fixed prompt of random tokens."""
    tokens = mx.random.randint(0, vocabulary, (length,), key=mx.random.key(length)).tolist()
    assert isinstance(tokens, list)
    return tokens


def machine() -> str:
    """The machine and the day, in words."""
    info = mx.device_info()
    name = info.get("device_name", platform.processor())
    return f"{name}, {platform.system()}, MLX {mx.__version__}, {date.today().isoformat()}"
