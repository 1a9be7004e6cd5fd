"""Checkpoints of any shape in random 4-bit weights: made on the device, or written to a disk as a folder that qnext runs.

PYTHONPATH=. python benchmarks/synthetic.py DEST [--layers 48] [--experts 512] [--skew 0] [--mtp] [--seed 0]

The 80B shape takes 45 GB. Random routers visit all experts more or less alike; with `--skew 0.2` the busiest quarter
takes three fifths of the visits, as is plausible for a trained model (`benchmarks/skew.py` measures it).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter

import mlx.core as mx

from benchmarks.random_weights import RandomWeights
from benchmarks.shape import (
    FULL_SHAPE,
    GROUP,
    Config,
    Shape,
    bits_of,
    centre_of,
    is_packed,
    modules,
    plain_mean,
    quantised,
    step_of,
    tensors,
)
from benchmarks.synthetic_folder import EOS_IDS, write_folder
from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.errors import QnextError

_DTYPE = mx.bfloat16


class SyntheticCheckpoint(Checkpoint):
    """A `Checkpoint` in MLX layout that makes its tensors when they are asked for."""

    _shapes: dict[str, Shape]

    @classmethod
    def make(cls, config: Config, *, mtp: bool = False) -> SyntheticCheckpoint:
        """The checkpoint of this configuration, with or without an MTP head; nothing is made until `arrays` are evaluated."""
        shapes = modules(config, mtp=mtp)
        stored = {info.name: info for path, shape in shapes.items() for info in tensors(path, shape)}
        made = cls(Path("synthetic"), quantised(config, shapes), stored, {}, "mlx", "mlx" if mtp else None)
        object.__setattr__(made, "_shapes", shapes)
        return made

    def arrays(self, names: Iterable[str]) -> dict[str, mx.array]:
        """Unevaluated random arrays, the same in every call."""
        mx.random.seed(0)
        made = {name: array for path in self._shapes for name, array in self._make(path).items()}
        return {name: made[name] for name in names}

    def _make(self, path: str) -> dict[str, mx.array]:
        shape = self._shapes[path]
        if not is_packed(path, shape):
            return {path: (plain_mean(path) + 0.1 * mx.random.normal(shape)).astype(_DTYPE)}
        *rows, columns = shape
        packed = mx.random.randint(0, 1 << 32, (*rows, columns * bits_of(path) // 32), dtype=mx.uint32)
        scales = mx.full((*rows, columns // GROUP), step_of(path, columns), dtype=_DTYPE)
        return {
            f"{path}.weight": packed,
            f"{path}.scales": scales,
            f"{path}.biases": scales * -centre_of(path),
        }


def main() -> int:
    """Write the checkpoint that the arguments describe; the exit code."""
    arguments = _arguments()
    changed = {"num_hidden_layers": arguments.layers, "num_experts": arguments.experts}
    config = FULL_SHAPE | changed | {"eos_token_id": list(EOS_IDS)}
    weights = RandomWeights(modules(config, mtp=arguments.mtp), arguments.seed, arguments.skew)
    start = perf_counter()

    def show(done: int, total: int) -> None:
        print(f"{done / 1e9:.1f} of {total / 1e9:.1f} GB, {perf_counter() - start:.0f} s", flush=True)

    try:
        write_folder(arguments.dest, config, weights, show, chat=True)
    except QnextError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{arguments.dest} is complete, {perf_counter() - start:.0f} s.")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dest", type=Path, help="a new folder")
    parser.add_argument("--layers", type=int, default=FULL_SHAPE["num_hidden_layers"])
    parser.add_argument("--experts", type=int, default=FULL_SHAPE["num_experts"])
    parser.add_argument("--skew", type=float, default=0.0, help="0: all experts alike; 0.2: as trained ones")
    parser.add_argument("--mtp", action="store_true", help="with an MTP head, in mtp.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.layers < 1:
        parser.error("--layers must be at least 1")
    if arguments.experts < FULL_SHAPE["num_experts_per_tok"]:
        parser.error(f"--experts must be at least {FULL_SHAPE['num_experts_per_tok']}, which a token visits")
    if not 0 <= arguments.skew <= 2:
        parser.error("--skew must lie between 0 and 2")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
