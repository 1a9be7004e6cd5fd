"""Memory for every expert: decoding with pools that are full beside the plain model with its weights loaded, in one process.

PYTHONPATH=. python benchmarks/full_budget.py FOLDER [--rounds 7] [--tokens 32] [--prompt 64]

Both models have to fit into memory together. They decode in turn after the same prompt; figures are medians of the rounds. Then
waiting inside layers is counted over as many tokens: visits that a pool serves, arrays that are read by the host, and
evaluations.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import numpy as np
from measure import Timing, machine, own, prompt_of

import mlx_qnext
from mlx_qnext.experts.pool import Pool
from mlx_qnext.model.qwen3_next import Model


def main() -> None:
    arguments = _arguments()
    print(f"{machine()}\n", flush=True)
    engine = mlx_qnext.load(arguments.folder)
    if not engine.plan.complete:
        engine.close()
        sys.exit(f"{engine.plan.share:.0%} of the experts find room on this machine, expected all.")
    start = perf_counter()
    engine.store.wait_until_filled()
    print(f"filled in {perf_counter() - start:.1f} s, complete: {engine.store.complete}", flush=True)
    plain, _ = mlx_qnext.load_model(arguments.folder)
    prompt = prompt_of(arguments.prompt, engine.config.vocab_size)
    pooled = engine.model
    _compare(pooled, plain, prompt, arguments.tokens, arguments.rounds)
    _count(pooled, prompt, arguments.tokens)
    engine.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=64)
    return parser.parse_args()


def _compare(pooled: Model, plain: Model, prompt: list[int], tokens: int, rounds: int) -> None:
    runs = {"pools": own(pooled), "plain": own(plain)}
    timings: dict[str, list[Timing]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        # Whoever comes second may find the processor warmer: they take turns.
        for name in sorted(runs, reverse=number % 2 == 0):
            timing = runs[name](prompt, tokens if number else 4)
            if number:  # the first round warms up
                timings[name].append(timing)
    print("| | prefill tok/s | decode tok/s | each round's |\n|---|---:|---:|---|")
    for name, of_runs in timings.items():
        rates = [timing.decode_tps for timing in of_runs]
        prefill = median(timing.prefill_tps for timing in of_runs)
        each = ", ".join(f"{rate:.2f}" for rate in rates)
        print(f"| {name} | {prefill:.1f} | {median(rates):.2f} | {each} |")
    ours, theirs = (median(timing.decode_tps for timing in timings[name]) for name in ("pools", "plain"))
    print(f"\npools decode at {ours / theirs:.3f} × the plain model's rate")


def _count(model: Model, prompt: list[int], tokens: int) -> None:
    """Print how often the host waited inside the layers while tokens were decoded."""
    waits: Counter[str] = Counter()
    hidden = model.hidden

    def watched(*arguments: Any) -> mx.array:
        waits["passes"] += 1
        with _counting(waits):
            return hidden(*arguments)

    with patch.object(model, "hidden", watched):
        own(model)(prompt, tokens)
    passes = waits.pop("passes")
    found = ", ".join(f"{name}: {count}" for name, count in waits.items()) or "none"
    print(f"waits inside the layers in {passes} passes: {found}", flush=True)


@contextmanager
def _counting(waits: Counter[str]) -> Iterator[None]:
    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if name != "arrays read by the host" or isinstance(arguments[0], mx.array):
                waits[name] += 1
            return function(*arguments, **named)

        return call

    with ExitStack() as stack:
        for name, owner, attribute in (
            ("visits served by a pool", Pool, "serve"),
            ("arrays read by the host", np, "array"),
            ("evaluations", mx, "eval"),
            ("evaluations begun", mx, "async_eval"),
        ):
            stack.enter_context(patch.object(owner, attribute, noted(name, getattr(owner, attribute))))
        yield


if __name__ == "__main__":
    main()
