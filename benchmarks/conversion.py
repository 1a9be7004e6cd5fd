"""Times `qnext quantize` beside `mlx_lm.convert` on the 80B shape cut to a few layers, with the memory that each takes.

    python benchmarks/conversion.py SCRATCH --layers 1 2 4 --rounds 2

SCRATCH is a folder with room for 3.4 GB a layer and a half of that again; what is written there is removed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.measure import machine
from benchmarks.published import write_published
from benchmarks.synthetic import FULL_SHAPE
from mlx_qnext.hub import embedded_model

BITS = 4
# Linux counts it in kilobytes, macOS in bytes.
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Run:
    """One conversion in a process of its own."""

    seconds: float
    peak_bytes: int


def run(command: list[str]) -> Run:
    """Run a program to its end, its output thrown away.

    Raises:
        RuntimeError: it failed.
    """
    start = perf_counter()
    with Path(os.devnull).open("wb") as nowhere:
        actions = [(os.POSIX_SPAWN_DUP2, nowhere.fileno(), stream) for stream in (1, 2)]
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed with status {status}")
    return Run(perf_counter() - start, usage.ru_maxrss * _MAXRSS_UNIT)


def convert_with_both(source: Path, scratch: Path) -> tuple[Run, Run]:
    """qnext and mlx-lm, each from the same source into a folder of its own."""
    _read(source)
    ours, theirs = scratch / "qnext", scratch / "mlx-lm"
    own = run([sys.executable, "-m", "cli", "quantize", str(source), str(ours), "--bits", str(BITS)])
    shutil.rmtree(ours)
    _read(source)
    options = ["--hf-path", str(source), "--mlx-path", str(theirs), "-q", "--q-bits", str(BITS)]
    peer = run([sys.executable, "-m", "mlx_lm", "convert", *options, "--q-group-size", "64"])
    shutil.rmtree(theirs)
    return own, peer


def _write(folder: Path, layers: int) -> int:
    """In a process of its own: a child's peak is never below what its parent had taken before."""
    config = FULL_SHAPE | {"num_hidden_layers": layers, "eos_token_id": 1}
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(write_published, folder, config).result()


def _read(folder: Path) -> None:
    """Each program finds as much of the source in the page cache as the other."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def main() -> None:
    """Print one row for each number of layers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    print(f"{machine()}\n")
    print("| layers | source GB | qnext s | peak GB | mlx-lm s | peak GB | qnext takes |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for layers in arguments.layers:
        source = arguments.scratch / f"source-{layers}"
        nbytes = _write(source, layers)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(embedded_model() / name, source)
        runs = [convert_with_both(source, arguments.scratch) for _ in range(arguments.rounds)]
        shutil.rmtree(source)
        own_s, peer_s = (median(pair[side].seconds for pair in runs) for side in (0, 1))
        own_peak, peer_peak = (max(pair[side].peak_bytes for pair in runs) / 1e9 for side in (0, 1))
        print(
            f"| {layers} | {nbytes / 1e9:.1f} | {own_s:.1f} | {own_peak:.2f} | {peer_s:.1f} | {peer_peak:.2f} | "
            f"{own_s / peer_s:.2f}× |",
            flush=True,
        )


if __name__ == "__main__":
    main()
