"""Drafting on the embedded model: tokens a step, acceptance, and speed beside plain decoding and mlx-lm's.

PYTHONPATH=. python benchmarks/speculative.py [--prompts 16] [--limit 160] [--rounds 2] [--half 4]
PYTHONPATH=. python benchmarks/speculative.py --full-shape      the cost of verification at the 80B shape, on a GPU

Prompts are held-out problems with thinking; decoding is greedy. Every way of decoding answers a prompt before any goes on to
the next; times are of decoding alone, the faster of two rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx
from drafting import Answer, FixedDepth, answer
from measure import machine, mlx_lm, prompt_of
from scripted_rounds import full_shape, verification_costs
from teacher import flips, half_precision, stood_at

import mlx_qnext
from demo.cases import cases
from mlx_qnext import Engine
from mlx_qnext.generate.depth import DraftDepth
from mlx_qnext.generate.request import DEEPEST_DRAFT
from mlx_qnext.model.qwen3_next import Model

CHECKPOINT = Path(__file__).parent.parent / "demo" / "checkpoint"
DEPTHS = range(1, DEEPEST_DRAFT + 1)
# A way of answering a prompt with up to so many tokens.
Way = Callable[[list[int], int], Answer]


def main() -> None:
    arguments = _arguments()
    print(f"{machine()}\n", flush=True)
    if arguments.full_shape:
        full_shape(arguments.layers)
        return
    engine = mlx_qnext.load("demo")
    prompts = _prompts(engine, arguments.prompts)
    answers = _measure(engine, prompts, arguments.limit, arguments.rounds)
    print()
    verification_costs(engine.model)
    _acceptance(engine, prompts, answers)
    texts = list(zip(prompts, [run.tokens for run in answers["plain"]]))
    _flips(engine.model, texts)
    if arguments.half:
        print("\nThe same in bf16, as a GPU computes:")
        _flips(half_precision(engine.path), texts[: arguments.half])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--limit", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--half", type=int, default=0, help="answers of which to count flips in bf16 too, slow on a CPU"
    )
    parser.add_argument("--full-shape", action="store_true")
    parser.add_argument("--layers", type=int, default=48)
    return parser.parse_args()


def _prompts(engine: Engine, count: int) -> list[list[int]]:
    """Held-out problems, one of a task before the second of any."""
    asked = [case for case in cases(1 + count // 30, thinking=True) if case.task not in ("talk", "recall")]
    spread = sorted(range(len(asked)), key=lambda i: (i * 13) % len(asked))[:count]
    chosen = [asked[i] for i in spread]
    return [
        list(engine.tokenizer.prompt(case.messages, list(case.chat.tools) or None).token_ids)
        for case in chosen
    ]


def _measure(engine: Engine, prompts: list[list[int]], limit: int, rounds: int) -> dict[str, list[Answer]]:
    """Every way's answers; prints tokens a step, tokens a second, and whether they are those of plain decoding."""
    auto = DraftDepth()
    ways = {"plain": _own(engine, FixedDepth(0))} | {
        f"depth {n}": _own(engine, FixedDepth(n)) for n in DEPTHS
    }
    answers = _interleaved(ways | {"auto": _own(engine, auto)}, prompts, [limit] * len(prompts), rounds)
    plain = answers["plain"]
    print("| | tokens a step | tok/s | over plain |\n|---|---:|---:|---:|")
    _rows(answers, plain)
    # Last, because on a GPU it may compile for minutes.
    _rows(_interleaved(_peers(), prompts, [len(run.tokens) for run in plain], rounds), plain)
    print()
    for name, runs in answers.items():
        same = sum(a.tokens == b.tokens for a, b in zip(runs, plain))
        print(f"{name}: {same} of {len(prompts)} answers token for token those of plain decoding")
    return answers


def _interleaved(
    ways: dict[str, Way], prompts: list[list[int]], limits: list[int], rounds: int
) -> dict[str, list[Answer]]:
    """Each way's answers, every prompt answered in all ways before the next; the fastest of a few rounds each."""
    answers: dict[str, list[Answer]] = {name: [] for name in ways}
    for way in ways.values():  # compiles what there is to compile
        way(prompts[0], 24)
    for prompt, limit in zip(prompts, limits):
        tried = [{name: way(prompt, limit) for name, way in ways.items()} for _ in range(rounds)]
        for name, runs in answers.items():
            runs.append(min((once[name] for once in tried), key=lambda run: run.seconds))
    return answers


def _rows(answers: dict[str, list[Answer]], plain: list[Answer]) -> None:
    for name, runs in answers.items():
        steps = sum(len(run.tokens) for run in runs) / sum(len(run.rounds) for run in runs)
        rate = _rate(runs)
        print(f"| {name} | {steps:.2f} | {rate:.1f} | {rate / _rate(plain):.2f}× |", flush=True)


def _rate(runs: list[Answer]) -> float:
    return sum(len(run.tokens) for run in runs) / sum(run.seconds for run in runs)


def _own(engine: Engine, depth: DraftDepth) -> Way:
    def way(prompt: list[int], limit: int) -> Answer:
        depth.begin(None)
        return answer(engine.model, prompt, depth, limit, engine.tokenizer.eos_ids)

    return way


def _peers() -> dict[str, Way]:
    """mlx-lm on its own conversion of the bf16 checkpoint: as it comes, and in fp32 where the engine computes so."""
    from mlx_lm import convert
    from mlx_lm.utils import load_model

    with TemporaryDirectory() as scratch:
        convert(str(CHECKPOINT), str(Path(scratch) / "peer"), quantize=True, q_bits=4, q_group_size=64)
        model, _ = load_model(Path(scratch) / "peer")
    if mx.default_device() == mx.Device(mx.cpu):
        model.set_dtype(mx.float32)
        return {"mlx-lm fp32": _peer(model)}
    return {"mlx-lm": _peer(model)}


def _peer(model: Any) -> Way:
    run = mlx_lm(model)

    def timed(prompt: list[int], limit: int) -> Answer:
        timing = run(prompt, limit)
        return Answer([0] * limit, [(0, 1)] * limit, timing.decode_s)

    return timed


def _acceptance(engine: Engine, prompts: list[list[int]], answers: dict[str, list[Answer]]) -> None:
    """Shares of drafts that stood, beside what the head says when it is fed the finished texts."""
    forced = [stood_at(engine.model, p, run.tokens) for p, run in zip(prompts, answers["plain"])]
    print(
        "\n| drafts that stood at depth | "
        + " | ".join(map(str, DEPTHS))
        + " |\n|---|"
        + "---:|" * DEEPEST_DRAFT
    )
    for depth in DEPTHS:
        rounds = [
            (teacher, at, emitted - 1)
            for teacher, run in zip(forced, answers[f"depth {depth}"])
            for at, emitted in run.rounds
            if at in teacher
        ]
        _row(
            f"in rounds of {depth}",
            [_share(i, [(n, t[at].possible) for t, at, n in rounds]) for i in range(1, depth + 1)],
        )
        fed = [(t[at].stood, t[at].possible) for t, at, _ in rounds]
        _row("the head, fed, at the same places", [_share(i, fed) for i in range(1, depth + 1)])
    everywhere = [(place.stood, place.possible) for teacher in forced for place in teacher.values()]
    _row("the head, fed, at all places", [_share(i, everywhere) for i in DEPTHS])


def _share(depth: int, places: list[tuple[int, int]]) -> float:
    """Of the places where a draft that deep is judged, the share where it stood."""
    judged = [stood >= depth for stood, possible in places if possible >= depth]
    return sum(judged) / max(len(judged), 1)


def _row(name: str, shares: list[float]) -> None:
    cells = [f"{100 * share:.1f} %" for share in shares] + [""] * (DEEPEST_DRAFT - len(shares))
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def _flips(model: Model, answers: list[tuple[list[int], list[int]]]) -> None:
    """How often the likeliest token differs between one token at a time and groups, on the same text.

    On the model's own answers, and on random tokens, after which it is never sure of anything.
    """
    noise = [(prompt_of(32, 4000), prompt_of(240, 4000))]
    print("\n| tokens a pass | likeliest token differs in answers | in random tokens |\n|---|---:|---:|")
    for size in range(2, DEEPEST_DRAFT + 2):
        cells = ["{} of {}".format(*flips(model, texts, size)) for texts in (answers, noise)]
        print(f"| {size} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
