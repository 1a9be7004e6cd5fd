"""Batches: answers a second at concurrency 1, 4, 8 and 16, beside one at a time and beside mlx-lm's batch generation.

PYTHONPATH=. python benchmarks/batch.py [--requests 16] [--limit 48] [--rounds 1] [--concurrency 1 4 8 16]
PYTHONPATH=. python benchmarks/batch.py --full-shape [--layers 48] [--prompt 256] [--decoded 32] [--peer]

Held-out questions to the embedded model, greedy, prompts included in the times; mlx-lm reads the same weights with everything
in fp32. Every way answers all questions before the next way begins, and how many answers differ from one at a time is counted.
With `--full-shape` decoding alone is timed, on random 4-bit weights at the 80B shape, after prompts of one length and steps
that compile what is new; it needs a GPU, and 50 GB. mlx-lm's copy of the weights (`--peer`) comes after, because the two do not
fit together.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
from measure import GREEDY, machine, prompt_of

import mlx_qnext
from demo.cases import cases
from mlx_qnext import Engine
from mlx_qnext.cache.hybrid import HybridCache
from mlx_qnext.generate.batch import run_batch
from mlx_qnext.generate.batch_request import BatchRequest, BatchResult
from mlx_qnext.generate.events import Finished
from mlx_qnext.generate.prefill import prefill
from mlx_qnext.generate.request import GenerationConfig
from mlx_qnext.generate.sampler import Sampler
from mlx_qnext.generate.timeline import Timeline
from mlx_qnext.generate.together import Together
from mlx_qnext.model.qwen3_next import Model

# How many prompts mlx-lm reads together where nothing else is asked for.
PEER_PREFILL = 8
# Decoding at the full shape is timed from where two steps differ by less than a fifth, or after so many.
ALIKE = 1.2
MOST_WARMING_STEPS = 5


@dataclass(frozen=True)
class Timing:
    """All answers in one way, as tokens."""

    wall_s: float
    cpu_s: float
    answers: tuple[int, ...]

    @property
    def tps(self) -> float:
        return sum(self.answers) / self.wall_s

    @property
    def cpu_ms(self) -> float:
        """Of all cores, a token."""
        return self.cpu_s * 1e3 / sum(self.answers)


# Answers all requests; returns how many tokens each has, and its text where that can be compared.
Way = Callable[[], tuple[list[int], list[str]]]


def main() -> None:
    arguments = _arguments()
    print(f"{machine()}\n", flush=True)
    if arguments.full_shape:
        _full_shape(arguments)
        return
    engine = mlx_qnext.load("demo")
    requests = _requests(arguments.requests, arguments.limit)
    with TemporaryDirectory() as scratch:
        peer = _peer(Path(scratch))
    ways: dict[str, Way] = {"one at a time, plain": _own(engine, [_plain(r) for r in requests], 1)}
    for n in arguments.concurrency:
        ways[f"qnext, {n}" + (", drafting" if n == 1 else "")] = _own(engine, requests, n)
        ways[f"mlx-lm, {n}"] = _theirs(peer, engine, requests, n)
    _report(_measure(ways, arguments.rounds))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--full-shape", action="store_true")
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--decoded", type=int, default=32)
    parser.add_argument("--peer", action="store_true")
    return parser.parse_args()


def _requests(count: int, limit: int) -> list[BatchRequest]:
    """Questions of every kind, spread evenly."""
    asked = cases(1 + count // 30, thinking=True)
    config = GenerationConfig(temperature=0.0, max_tokens=limit)
    spread = sorted(range(len(asked)), key=lambda i: (i * 13) % len(asked))[:count]
    return [BatchRequest(asked[i].messages, config, list(asked[i].chat.tools) or None) for i in spread]


def _plain(request: BatchRequest) -> BatchRequest:
    config = request.config
    plain = GenerationConfig(temperature=0.0, max_tokens=config.max_tokens, draft=0)
    return BatchRequest(request.messages, plain, request.tools)


def _own(engine: Engine, requests: Sequence[BatchRequest], concurrency: int) -> Way:
    def way() -> tuple[list[int], list[str]]:
        answers: dict[int, Finished] = {}
        for event in run_batch(engine, enumerate(requests), concurrency):
            if isinstance(event, BatchResult) and isinstance(event.outcome, Finished):
                answers[event.number] = event.outcome
        ordered = [answers[number] for number in range(len(requests))]
        return [a.stats.completion_tokens for a in ordered], [a.thinking + a.text for a in ordered]

    return way


def _peer(folder: Path) -> Any:
    from mlx_lm.utils import load_model
    from mlx_lm_server import copy_in_fp32

    model, _ = load_model(copy_in_fp32(folder / "peer"))
    return model


def _theirs(model: Any, engine: Engine, requests: Sequence[BatchRequest], concurrency: int) -> Way:
    """mlx-lm's `batch_generate`, on the same prompts, with the same ends."""
    from mlx_lm.generate import batch_generate

    prompts = [list(engine.tokenizer.prompt(r.messages, r.tools).token_ids) for r in requests]
    tokenizer: Any = SimpleNamespace(eos_token_ids=engine.tokenizer.eos_ids, decode=engine.tokenizer.decode)

    def way() -> tuple[list[int], list[str]]:
        response = batch_generate(
            model,
            tokenizer,
            prompts,
            max_tokens=requests[0].config.max_tokens or 128,
            return_token_ids=True,
            completion_batch_size=concurrency,
            prefill_batch_size=min(concurrency, PEER_PREFILL),
        )
        # The token that ends an answer is not among theirs, and is in ours.
        limit = requests[0].config.max_tokens or 128
        return [min(len(ids) + 1, limit) for ids in response.token_ids or []], []

    return way


def _measure(ways: dict[str, Way], rounds: int) -> dict[str, list[Timing]]:
    timings: dict[str, list[Timing]] = {name: [] for name in ways}
    texts: dict[str, list[str]] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            wall, cpu = perf_counter(), process_time()
            tokens, texts[name] = way()
            timing = Timing(perf_counter() - wall, process_time() - cpu, tuple(tokens))
            timings[name].append(timing)
            print(f"  {name}: {timing.tps:.1f} tok/s, {timing.cpu_ms:.1f} ms of CPU a token", flush=True)
    first, *others = texts.values()
    compared = [text for text in others if text]
    differ = sum(a != b for text in compared for a, b in zip(first, text, strict=True))
    print(f"\n{differ} of {len(first) * len(compared)} answers differ from one at a time\n")
    return timings


def _report(timings: dict[str, list[Timing]]) -> None:
    print("| | tok/s | over one at a time | over mlx-lm | CPU ms a token |")
    print("|---|---:|---:|---:|---:|")
    tps = {name: median(t.tps for t in runs) for name, runs in timings.items()}
    alone = next(iter(tps.values()))
    for name, rate in tps.items():
        peer = tps.get(name.replace("qnext", "mlx-lm").removesuffix(", drafting"))
        beside = f"{rate / peer:.2f}×" if peer and name.startswith("qnext") else ""
        cpu = median(t.cpu_ms for t in timings[name])
        print(f"| {name} | {rate:.1f} | {rate / alone:.2f}× | {beside} | {cpu:.1f} |")


def _full_shape(arguments: argparse.Namespace) -> None:
    from synthetic import FULL_SHAPE

    shape = FULL_SHAPE | {"num_hidden_layers": arguments.layers}
    prompts = _prompts(max(arguments.concurrency), arguments.prompt)
    own = _own_decoding(shape, arguments, prompts)
    gc.collect()
    mx.clear_cache()
    peers = _peers_decoding(shape, arguments, prompts) if arguments.peer else {}
    _report_decoding(own, peers)


def _own_decoding(
    shape: dict[str, Any], arguments: argparse.Namespace, prompts: Sequence[Sequence[int]]
) -> dict[int, Decoding]:
    from synthetic import SyntheticCheckpoint

    from mlx_qnext.model.loading import build_model

    model, _ = build_model(SyntheticCheckpoint.make(shape))
    return _each("qnext", arguments, lambda n: _together(model, prompts[:n]))


def _peers_decoding(
    shape: dict[str, Any], arguments: argparse.Namespace, prompts: Sequence[Sequence[int]]
) -> dict[int, Decoding]:
    from full_shape import _peer as full_shape_peer

    model = full_shape_peer(shape)
    return _each("mlx-lm", arguments, lambda n: _peers_together(model, prompts[:n]))


def _prompts(count: int, length: int) -> list[list[int]]:
    """Random ones, all different, so that their answers visit experts of their own."""
    tokens = prompt_of(count * length, 1000)
    return [tokens[at : at + length] for at in range(0, count * length, length)]


@dataclass(frozen=True)
class Decoding:
    """Steps of so many sequences together.

    Attributes:
        ready_s: until steps took alike: all prompts, and what is compiled on first use.
        steps_s: of the steps that followed, each.
        peak_bytes: of memory since before the prompts, weights included.
    """

    concurrency: int
    ready_s: float
    steps_s: tuple[float, ...]
    peak_bytes: int

    @property
    def step_s(self) -> float:
        """The median, which something compiled late does not move."""
        return median(self.steps_s)

    @property
    def tps(self) -> float:
        return self.concurrency / self.step_s


def _each(
    name: str, arguments: argparse.Namespace, decoding: Callable[[int], Callable[[], Any]]
) -> dict[int, Decoding]:
    """What `decoding` gives at each concurrency is a step, to be called again and again."""
    found: dict[int, Decoding] = {}
    for n in arguments.concurrency:
        mx.reset_peak_memory()
        start = perf_counter()
        step = decoding(n)
        _warm_up(step)
        ready_s = perf_counter() - start
        steps_s = tuple(_seconds(step) for _ in range(arguments.decoded))
        found[n] = Decoding(n, ready_s, steps_s, mx.get_peak_memory())
        print(
            f"  {name}, {n} together: {found[n].tps:.1f} tok/s, steps of {_ms(found[n].step_s)}, the slowest "
            f"{_ms(max(steps_s))}, after {ready_s:.1f} s of reading and warming up",
            flush=True,
        )
        del step
        gc.collect()
    return found


def _warm_up(step: Callable[[], Any]) -> None:
    """Until two steps in a row take alike, as nothing is compiled any more."""
    before = _seconds(step)
    for _ in range(MOST_WARMING_STEPS - 1):
        now = _seconds(step)
        if max(before, now) < ALIKE * min(before, now):
            return
        before = now


def _seconds(step: Callable[[], Any]) -> float:
    start = perf_counter()
    step()
    return perf_counter() - start


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def _together(model: Model, prompts: Sequence[Sequence[int]]) -> Callable[[], Any]:
    """The engine's step, after the prompts."""
    together = Together(model)
    for tokens in prompts:
        timeline = Timeline(HybridCache(model.make_cache()))
        *_, read = prefill(model, timeline, tokens)
        assert read.hidden is not None
        endless = SimpleNamespace(push=lambda _: None, ended=False, full=False, overthinks=False)
        sequence: Any = SimpleNamespace(
            sampler=Sampler(GREEDY, model.config.vocab_size, [], seed=0),
            tokens=list(tokens),
            answer=endless,
            watch=SimpleNamespace(token_came=lambda: None),
        )
        together.begin(sequence, timeline.cache, read.hidden)
    return together.step


def _peers_together(model: Any, prompts: Sequence[Sequence[int]]) -> Callable[[], Any]:
    """mlx-lm's step, from the first that all are decoded in."""
    from mlx_lm.generate import BatchGenerator

    generator = BatchGenerator(
        model,
        max_tokens=1 << 30,
        completion_batch_size=len(prompts),
        prefill_batch_size=min(len(prompts), PEER_PREFILL),
        prefill_step_size=len(prompts[0]),
    )
    generator.insert([list(tokens) for tokens in prompts])
    while len(generator.next_generated()) < len(prompts):
        pass
    return generator.next_generated


def _report_decoding(own: dict[int, Decoding], peers: dict[int, Decoding]) -> None:
    first = min(own)
    print(
        f"\n| together | qnext tok/s | over {first} | step, ms | peak, GB | mlx-lm tok/s | over {first} | step, ms | peak, GB "
        "| qnext is |"
    )
    print("|---:|" + "---:|" * 9)
    for n, decoding in own.items():
        peer = peers.get(n)
        beside = f"{decoding.tps / peer.tps:.2f}×" if peer else ""
        cells = [*_cells(decoding, own[first]), *_cells(peer, peers.get(first)), beside]
        print(f"| {n} | {' | '.join(cells)} |")


def _cells(decoding: Decoding | None, first: Decoding | None) -> list[str]:
    if decoding is None or first is None:
        return [""] * 4
    peak_gb = decoding.peak_bytes / 1e9
    return [
        f"{decoding.tps:.1f}",
        f"{decoding.tps / first.tps:.2f}×",
        f"{decoding.step_s * 1e3:.1f}",
        f"{peak_gb:.1f}",
    ]


if __name__ == "__main__":
    main()
