"""From the shell: `qnext --help`, and the first token of the embedded model, beside mlx-lm's on the same weights.

python benchmarks/startup.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from statistics import median
from time import perf_counter

from measure import machine

from mlx_qnext.hub import embedded_model

PROMPT = "What is 47 + 85?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    own = [sys.executable, "-m", "cli"]
    peer = [sys.executable, "-m", "mlx_lm", "generate", "--model", str(embedded_model()), "--prompt", PROMPT]
    # The first text of each program's answer, the thought included.
    cases = {
        "qnext --help": ([*own, "--help"], b"Usage"),
        "qnext, first token": ([*own, "generate", PROMPT], b"thinking\n"),
        "mlx-lm, first token": (peer, b"==========\n"),
    }
    print(f"{machine()}\n\n| | median s |\n|---|---|")
    for name, (command, sign) in cases.items():
        print(f"| {name} | {median(_until(command, sign) for _ in range(rounds)):.2f} |")


def _until(command: list[str], sign: bytes) -> float:
    """Seconds from the start of a program until something follows `sign` in what it prints."""
    start = perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0) as process:
        assert process.stdout is not None
        seen = b""
        while sign not in seen or not seen.partition(sign)[2]:
            piece = process.stdout.read(1)
            if not piece:
                raise RuntimeError(f"{command} ended without an answer: {seen!r}")
            seen += piece
        elapsed = perf_counter() - start
        process.kill()
    return elapsed


if __name__ == "__main__":
    main()
