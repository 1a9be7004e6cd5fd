"""Speed by budget: pools for a share of the experts, decoding, and prompts layer by layer against chunk by chunk.

PYTHONPATH=. python benchmarks/budgets.py FOLDER [--shares 25 50 75 100] [--tokens 32] [--prompts 1024 8192] [--minutes 9]

Each share's model starts with empty pools, reads a prompt of 64 tokens and decodes a few before it is timed; with a slot for
every expert the background fills them first. What no longer fits into the minutes is left out, and named. Reads may come from
the page cache where there is memory for it.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import perf_counter

import mlx.core as mx
from measure import GREEDY, machine, prompt_of

from mlx_qnext.cache.hybrid import HybridCache
from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.config import ModelConfig
from mlx_qnext.experts.files import WeightFiles
from mlx_qnext.experts.plan import MemoryNeeds
from mlx_qnext.experts.store import ExpertStore
from mlx_qnext.generate.decode import decode
from mlx_qnext.generate.prefill import prefill
from mlx_qnext.generate.sampler import Sampler
from mlx_qnext.generate.timeline import Timeline
from mlx_qnext.model.loading import build_model
from mlx_qnext.model.qwen3_next import Model

PROMPT, WARMED, CHUNK = 64, 8, 2048
# The first prompt of a length builds graphs, and on a GPU compiles; one this long takes the same kernels as longer ones.
_FIRST = 1024


class _OutOfTimeError(Exception):
    """A part that cannot end in time."""


class _Minutes:
    """A limit of time."""

    def __init__(self, minutes: float) -> None:
        self._end = perf_counter() + 60 * minutes

    def check(self) -> None:
        """Return while there is time left.

        Raises:
            _OutOfTimeError: there is none.
        """
        if perf_counter() > self._end:
            raise _OutOfTimeError("the time is over")


@dataclass(frozen=True)
class _Loaded:
    """A model whose experts are in pools of a share of their number."""

    model: Model
    store: ExpertStore
    share: int
    minutes: _Minutes

    def read(self, prompt: list[int]) -> tuple[Timeline, mx.array]:
        """The prompt as a session reads it: layer by layer, or in chunks where every expert is in memory."""
        timeline = Timeline(HybridCache(self.model.make_cache()))
        hidden: mx.array | None = None
        for progress in prefill(self.model, timeline, prompt):
            hidden = progress.hidden
            self.minutes.check()
        assert hidden is not None
        return timeline, hidden

    def read_in_chunks(self, prompt: list[int]) -> None:
        """The prompt in chunks, each through all layers before the next."""
        cache = HybridCache(self.model.make_cache())
        for start in range(0, len(prompt), CHUNK):
            hidden = self.model.hidden(mx.array([prompt[start : start + CHUNK]]), cache.layers)
            mx.eval(hidden, cache.arrays())
            self.minutes.check()

    def prompt(self, length: int, seed: int) -> list[int]:
        """One of many fixed prompts of random tokens."""
        return prompt_of(length + seed, self.model.config.vocab_size)[:length]


def main() -> None:
    arguments = _arguments()
    minutes = _Minutes(arguments.minutes)
    print(f"{machine()}\n", flush=True)
    for number, share in enumerate(arguments.shares):
        with _attempt(f"{share} %"):
            minutes.check()
            _measure(arguments, share, minutes, first=not number)
        gc.collect()
        mx.clear_cache()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shares", type=int, nargs="+", default=[25, 50, 75, 100])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--prompts", type=int, nargs="*", default=[1024, 8192])
    parser.add_argument("--minutes", type=float, default=9.0)
    return parser.parse_args()


@contextmanager
def _attempt(name: str) -> Iterator[None]:
    """Say what fails, and go on with the next part."""
    try:
        yield
    except (_OutOfTimeError, RuntimeError, MemoryError) as why:
        print(f"{name}: left out: {why}", flush=True)


def _measure(arguments: argparse.Namespace, share: int, minutes: _Minutes, *, first: bool) -> None:
    loaded = _load(arguments.folder, share, minutes)
    seeds = count()
    try:
        with _attempt(f"{share} %: decoding"):
            _decode(loaded, arguments.tokens)
        for length in arguments.prompts:
            for name, read in _ways(loaded).items():
                with _attempt(f"{share} %: {length} tokens {name}"):
                    if first and length == arguments.prompts[0]:
                        minutes.check()
                        _prompt(loaded, min(_FIRST, length), f"{name}, first", read, next(seeds))
                    minutes.check()
                    _prompt(loaded, length, name, read, next(seeds))
    finally:
        loaded.store.close()


def _load(folder: Path, share: int, minutes: _Minutes) -> _Loaded:
    start = perf_counter()
    checkpoint = Checkpoint.open(folder)
    needs = MemoryNeeds.of(checkpoint, ModelConfig.from_dict(checkpoint.config))
    slots = max(needs.least_slots, needs.num_experts * share // 100)
    files = WeightFiles({tensor.file for tensor in checkpoint.tensors.values()})
    store = ExpertStore(files, dict.fromkeys(needs.expert_bytes, slots))
    model, _ = build_model(checkpoint, None, store)
    loaded_s = perf_counter() - start
    if share >= 100:
        store.fill({})
        store.wait_until_filled()
    filled = f", filled after {perf_counter() - start:.1f} s" if share >= 100 else ""
    print(
        f"{share} %: {slots} of {needs.num_experts} experts a layer; loaded in {loaded_s:.1f} s{filled}",
        flush=True,
    )
    return _Loaded(model, store, share, minutes)


def _ways(loaded: _Loaded) -> dict[str, Callable[[list[int]], object]]:
    if loaded.model.complete:
        return {"with all in memory": loaded.read}
    return {"layer by layer": loaded.read, "chunk by chunk": loaded.read_in_chunks}


def _decode(loaded: _Loaded, tokens: int) -> None:
    start = perf_counter()
    timeline, hidden = loaded.read(loaded.prompt(PROMPT, 0))
    sampler = Sampler(GREEDY, loaded.model.config.vocab_size, [], seed=0)
    groups = decode(loaded.model, timeline, hidden, sampler)
    for _ in range(WARMED):
        next(groups)
        loaded.minutes.check()
    first_s, before = perf_counter() - start, loaded.store.counts
    start, done = perf_counter(), 0
    while done < tokens:
        done += len(next(groups))
        loaded.minutes.check()
    elapsed, now = perf_counter() - start, loaded.store.counts
    hits, misses = now.hits - before.hits, now.misses - before.misses
    rate = f"{hits / (hits + misses):.1%} present" if hits + misses else "no visit had to wait"
    a_token = (now.read_bytes - before.read_bytes) / done
    print(
        f"{loaded.share} %: decode {done / elapsed:.2f} tok/s, {rate}, {a_token / 1e9:.3f} GB read a token, "
        f"{loaded.store.resident_bytes / 1e9:.2f} GB of experts in memory; before that, prompt and {WARMED} tokens "
        f"{first_s:.1f} s",
        flush=True,
    )


def _prompt(loaded: _Loaded, length: int, name: str, read: Callable[[list[int]], object], seed: int) -> None:
    before, start = loaded.store.counts.read_bytes, perf_counter()
    read(loaded.prompt(length, seed))
    elapsed = perf_counter() - start
    read_bytes = loaded.store.counts.read_bytes - before
    print(
        f"{loaded.share} %: {length} tokens {name}: {length / elapsed:.1f} tok/s, {elapsed:.2f} s, "
        f"{read_bytes / 1e9:.2f} GB read",
        flush=True,
    )


if __name__ == "__main__":
    main()
