"""Writes the weights that travel with the program: the bf16 checkpoint, quantised to 4 bits.

python -m demo.ship
"""

from __future__ import annotations

import shutil
from pathlib import Path

from quantize.job import Listeners, prepare
from quantize.recipe_file import find_recipe

CHECKPOINT = Path(__file__).parent / "checkpoint"
WEIGHTS = Path(__file__).parent.parent / "mlx_qnext" / "demo" / "weights"


def main() -> None:
    """Replace the shipped weights by those of the checkpoint."""
    fresh = WEIGHTS.with_name("weights.new")
    shutil.rmtree(fresh, ignore_errors=True)
    with prepare(str(CHECKPOINT), fresh, find_recipe("4bit")) as job:
        job.run(None, Listeners())
    shutil.rmtree(WEIGHTS, ignore_errors=True)
    fresh.rename(WEIGHTS)


if __name__ == "__main__":
    main()
