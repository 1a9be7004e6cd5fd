"""The embedded model on this machine's default device: decode and prefill beside mlx-lm on the same checkpoint.

python benchmarks/embedded.py [--rounds 3]

mlx-lm runs twice on what its own `convert` makes of the bf16 checkpoint at 4 bits: as it comes (bf16), and with everything in
fp32. Runs are interleaved, and each figure is the median of its rounds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import mlx.core as mx
from measure import Runner, Timing, machine, mlx_lm, own, prompt_of
from mlx_lm import convert
from mlx_lm.utils import load_model as load_peer

from mlx_qnext.hub import embedded_model
from mlx_qnext.model.loading import load_model

CHECKPOINT = Path(__file__).parent.parent / "demo" / "checkpoint"
PROMPT, DECODED = 2048, 192


def main() -> None:
    rounds = _arguments().rounds
    ours, _ = load_model(embedded_model())
    with TemporaryDirectory() as scratch:
        converted = Path(scratch) / "converted"
        convert(str(CHECKPOINT), str(converted), quantize=True, q_bits=4, q_group_size=64)
        as_it_comes, _ = load_peer(converted)
        wide, _ = load_peer(converted)
    wide.set_dtype(mx.float32)
    runs: dict[str, Runner] = {
        "qnext": own(ours),
        "mlx-lm fp32": mlx_lm(wide),
        "mlx-lm as it comes": mlx_lm(as_it_comes),
    }
    timings: dict[str, list[Timing]] = {name: [] for name in runs}
    for index in range(rounds + 1):
        for name, run in runs.items():
            timing = run(prompt_of(PROMPT if index else 64, ours.config.vocab_size), DECODED if index else 4)
            if index:  # the first round warms up
                timings[name].append(timing)
    _report(timings)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _report(timings: dict[str, list[Timing]]) -> None:
    print(f"{machine()}\n")
    print("| | prefill tok/s | qnext is | decode tok/s | qnext is |")
    print("|---|---|---|---|---|")
    rates = {
        name: (median(t.prefill_tps for t in runs), median(t.decode_tps for t in runs))
        for name, runs in timings.items()
    }
    prefill, decode = rates["qnext"]
    for name, (p, d) in rates.items():
        print(f"| {name} | {p:.1f} | {prefill / p:.2f}× | {d:.1f} | {decode / d:.2f}× |")


if __name__ == "__main__":
    main()
