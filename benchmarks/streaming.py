"""Decoding with experts that are read as they are routed to, beside its own two halves: computing alone, and reading alone.

PYTHONPATH=. python benchmarks/streaming.py FOLDER [--memory 8G] [--prompt 32] [--tokens 8]

One process, greedy, no drafts, nothing remembered of other runs. Every step is run twice from the same place: with the weights
dropped from the page cache, and again with every expert it needs in memory, which is its computing. Then the experts it had to
read are read once more, cold, layer after layer as a step needs them, by the same reader into the slots of a spare pool.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import mlx.core as mx
import numpy as np
from measure import GREEDY, machine, prompt_of
from page_cache import forget

import mlx_qnext
from mlx_qnext import Engine
from mlx_qnext.cache.hybrid import HybridCache
from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.experts.files import WeightFiles
from mlx_qnext.experts.memory import parse_size, peak_bytes
from mlx_qnext.experts.pool import Pool
from mlx_qnext.experts.reader import Reader
from mlx_qnext.generate.decode import step
from mlx_qnext.generate.prefill import prefill
from mlx_qnext.generate.sampler import Sampler
from mlx_qnext.generate.timeline import Timeline

# Experts that came, by layer.
Arrivals = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Step:
    """One decoded token.

    Attributes:
        decode_s: as a user waits for it. compute_s: with everything it needs in memory. read_s: its reads, nothing else.
        at_once_s: the same reads with nothing between the layers.
    """

    decode_s: float
    compute_s: float
    read_s: float
    at_once_s: float
    hits: int
    misses: int
    read_bytes: int


def main() -> None:
    arguments = _arguments()
    print(f"{machine()}\n", flush=True)
    forget(arguments.folder)
    with TemporaryDirectory() as cache:
        os.environ["QNEXT_CACHE"] = cache
        start = perf_counter()
        engine = mlx_qnext.load(arguments.folder, memory_bytes=parse_size(arguments.memory))
        print(f"loaded in {perf_counter() - start:.1f} s, {_slots(engine)}", flush=True)
        try:
            steps = _Decoding(engine, prompt_of(arguments.prompt, engine.config.vocab_size)).run(
                arguments.tokens
            )
        finally:
            engine.close()
    _report(steps, engine.plan.total_bytes)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--memory", default="8G")
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=8)
    return parser.parse_args()


def _slots(engine: Engine) -> str:
    slots = sorted(engine.plan.slots.values())
    return f"{slots[0]} to {slots[-1]} of {engine.plan.num_experts} experts in each of {len(slots)} layers"


class _Decoding:
    """One prompt read, and steps after it."""

    def __init__(self, engine: Engine, prompt: list[int]) -> None:
        self.engine, self.store = engine, engine.store
        self.timeline = Timeline(HybridCache(engine.model.make_cache()))
        self.sampler = Sampler(GREEDY, engine.config.vocab_size, [], seed=0)
        self.reads = _Reads(engine)
        self.hidden = self._read_prompt(prompt)

    def run(self, count: int) -> list[Step]:
        """`count` steps, after one that is not counted because it builds its graphs; prints each."""
        # Layers that can be complete are filled by the background; from here on all reads are the steps' own.
        self.store.wait_until_filled()
        token = self.sampler(self.engine.model.logits(self.hidden)[0, -1])
        mx.eval(token)
        print("| step | decode s | compute s | read s | all at once s | misses | read MB |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        steps: list[Step] = []
        for number in range(count + 1):
            measured, token = self._step(token)
            _row("first, not counted" if not number else str(number), measured)
            steps.append(measured)
        self.reads.close()
        return steps[1:]

    def _read_prompt(self, prompt: list[int]) -> mx.array:
        start = perf_counter()
        *_, read = prefill(
            self.engine.model,
            self.timeline,
            prompt,
            span_tokens=self.engine.plan.span_tokens,
        )
        elapsed = perf_counter() - start
        assert read.hidden is not None
        _check_prompt(self.store.pools)
        now = self.store.counts
        print(
            f"prompt of {len(prompt)} tokens: {elapsed:.1f} s, {now.misses} experts read, {now.read_bytes / 1e9:.2f} GB, "
            "none of them twice\n",
            flush=True,
        )
        return read.hidden

    def _step(self, token: mx.array) -> tuple[Step, mx.array]:
        self.timeline.remember()
        before, held = self.store.counts, self._held()
        forget(self.engine.path)
        decode_s, _, hidden = self._timed(token)
        now, came = self.store.counts, self._held() - held
        misses, read_bytes = now.misses - before.misses, now.read_bytes - before.read_bytes
        arrivals = _by_layer(came)
        assert misses == len(came)
        assert read_bytes == sum(
            len(experts) * self.store.pools[path].stored.nbytes for path, experts in arrivals.items()
        )
        self.timeline.restore()
        compute_s, again, state = self._timed(token)
        assert self.store.counts.misses == now.misses, "the same step needed an expert that had gone"
        assert mx.array_equal(hidden, state), "the same step came to another state"
        forget(self.engine.path)
        read_s = self.reads.layer_by_layer(arrivals)
        forget(self.engine.path)
        at_once_s = self.reads.at_once(arrivals)
        hits = now.hits - before.hits
        return Step(decode_s, compute_s, read_s, at_once_s, hits, misses, read_bytes), again

    def _timed(self, token: mx.array) -> tuple[float, mx.array, mx.array]:
        start = perf_counter()
        _, hidden, following = step(self.engine.model, self.timeline, token, self.sampler)
        mx.eval(following)
        return perf_counter() - start, following, hidden

    def _held(self) -> set[tuple[str, int]]:
        """Every expert in memory."""
        return {(path, e) for path, experts in self.store.hottest().items() for e in experts}


class _Reads:
    """Reads of experts into slots that nothing is computed with."""

    def __init__(self, engine: Engine) -> None:
        files = {tensor.file for tensor in Checkpoint.open(engine.path).tensors.values()}
        self._reader = Reader(WeightFiles(files))
        pools = engine.store.pools
        slots = engine.config.num_experts_per_tok
        first = next(iter(pools.values()))
        spare = Pool(first.stored, slots, first._dtype, self._reader, in_place=engine.store.in_place)
        # All layers' experts are of one shape, so that one pool's slots do for all.
        self._routes = {
            path: [
                replace(into, stored=route.stored)
                for into, route in zip(spare._routes, pool._routes, strict=True)
            ]
            for path, pool in pools.items()
        }
        for routes in self._routes.values():  # commits the slots' memory
            for route in routes:
                for slot in range(slots):
                    route.place(slot)[:] = 0

    def layer_by_layer(self, experts: Arrivals) -> float:
        """Seconds to read the experts, each layer's when those of the layer before have arrived."""
        start = perf_counter()
        for path, ids in experts.items():
            # All have begun before the first is waited for.
            for read in list(self._reader.start(self._routes[path], ids.tolist(), range(len(ids)))):
                read.result()
        return perf_counter() - start

    def at_once(self, experts: Arrivals) -> float:
        """Seconds to read the experts where all are asked for at once."""
        start = perf_counter()
        reads = [
            read
            for path, ids in experts.items()
            for read in self._reader.start(self._routes[path], ids.tolist(), range(len(ids)))
        ]
        for read in reads:
            read.result()
        return perf_counter() - start

    def close(self) -> None:
        self._reader.close()


def _by_layer(came: set[tuple[str, int]]) -> Arrivals:
    paths = sorted({path for path, _ in came}, key=lambda path: int(path.split(".")[2]))
    return {path: np.array(sorted(e for p, e in came if p == path)) for path in paths}


def _check_prompt(pools: Mapping[str, Pool]) -> None:
    """That no layer's experts were read more often than there are of them, and no byte beside theirs."""
    for path, pool in pools.items():
        counts = pool.counts
        assert counts.misses <= pool.stored.routed, f"{path} read {counts.misses} experts"
        assert counts.read_bytes == counts.misses * pool.stored.nbytes, (
            f"{path} read {counts.read_bytes} bytes"
        )


def _row(name: str, step: Step) -> None:
    times = " | ".join(f"{s:.3f}" for s in (step.decode_s, step.compute_s, step.read_s, step.at_once_s))
    print(f"| {name} | {times} | {step.misses} | {step.read_bytes / 1e6:.1f} |", flush=True)


def _report(steps: list[Step], planned_bytes: int) -> None:
    decode, compute, read, at_once = (
        sum(getattr(step, name) for step in steps)
        for name in ("decode_s", "compute_s", "read_s", "at_once_s")
    )
    hits, misses = (sum(getattr(step, name) for step in steps) for name in ("hits", "misses"))
    print(f"| together | {decode:.3f} | {compute:.3f} | {read:.3f} | {at_once:.3f} | {misses} | |\n")
    print(
        f"bytes read are misses × the expert's size in every step; {hits / (hits + misses):.1%} were present"
    )
    print(
        f"{len(steps) / decode:.3f} tok/s, {decode / max(compute, read):.3f} × the longer of computing and reading,"
    )
    print(
        f"{decode / sum(max(s.compute_s, s.read_s) for s in steps):.3f} × the longer of the two step by step, "
        f"{decode / max(compute, at_once):.3f} × with all reads at once"
    )
    print(f"peak {peak_bytes() / 1e9:.2f} GB resident, {planned_bytes / 1e9:.2f} GB planned")


if __name__ == "__main__":
    main()
