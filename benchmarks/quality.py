"""What each recipe costs: converted folders against the checkpoint they were made of, as a Markdown table.

    python -m demo.transcripts demo/checkpoint chats.jsonl
    python benchmarks/quality.py chats.jsonl demo/checkpoint converted/3bit converted/4bit converted/8bit

Every folder reads the same chats, and is judged by the answers: what the embedded model says of questions means nothing, as it
learned answers alone. The relative error is of all weights that were rounded, by the folder's own record.
"""

from __future__ import annotations

import argparse
import json
import sys
from math import prod, sqrt
from pathlib import Path

from measure import machine

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.config import ModelConfig
from mlx_qnext.json_fields import Fields, read_json_object
from mlx_qnext.sizes import bytes_by_part, count_parameters
from mlx_qnext.tokenizer import Tokenizer
from quantize.evaluate import Quality, evaluate

COLUMNS = (
    "weights",
    "bits a weight",
    "MB",
    "relative error",
    "KL, mean",
    "KL, 99th percentile",
    "same token",
    "perplexity",
    "MTP agreement",
)


def main() -> None:
    arguments = _arguments()
    tokenizer = Tokenizer.from_folder(arguments.source)
    chats = [json.loads(line) for line in arguments.chats.read_text(encoding="utf-8").splitlines()]
    documents = [tokenizer.encode(chat["text"]) for chat in chats]
    contexts = [chat["context_tokens"] for chat in chats]
    compared = [_compared(arguments.source, dest, documents, contexts) for dest in arguments.dest]
    first = compared[0]
    print(f"{machine()}; {first.tokens:,} tokens of {len(chats)} answers\n")
    print(_row(*COLUMNS))
    print(_row("---", *["---:"] * (len(COLUMNS) - 1)))
    quality = (0.0, 0.0, 1.0, first.source_perplexity, first.source_mtp_agreement)
    print(_row("source", *_size(arguments.source), "–", *_quality(*quality)))
    for dest, q in zip(arguments.dest, compared, strict=True):
        quality = (q.kl, q.kl_p99, q.same_top, q.perplexity, q.mtp_agreement)
        print(_row(dest.name, *_size(dest), _relative_error(dest), *_quality(*quality)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("chats", type=Path, help="as demo.transcripts writes them")
    parser.add_argument("source", type=Path)
    parser.add_argument("dest", type=Path, nargs="+")
    return parser.parse_args()


def _compared(source: Path, dest: Path, documents: list[list[int]], contexts: list[int]) -> Quality:
    def show(done: int, total: int) -> None:
        print(
            f"\r{dest.name}: {done} of {total} ",
            end="" if done < total else "\n",
            file=sys.stderr,
            flush=True,
        )

    return evaluate(source, dest, documents, show, contexts=contexts)


def _size(folder: Path) -> tuple[str, str]:
    checkpoint = Checkpoint.open(folder)
    total_bytes = sum(bytes_by_part(checkpoint).values())
    weights = count_parameters(checkpoint, ModelConfig.from_dict(checkpoint.config)).total
    return f"{8 * total_bytes / weights:.2f}", f"{total_bytes / 1e6:,.1f}"


def _relative_error(folder: Path) -> str:
    """Over all modules, each as heavy as it has weights."""
    if not (folder / "qnext.json").is_file():
        return "–"
    loss = Fields(read_json_object(folder / "qnext.json"), f"{folder}/qnext.json").object("loss")
    checkpoint = Checkpoint.open(folder)
    squares = weights = 0.0
    for module in loss.values:
        precision = checkpoint.precision_of(module)
        assert precision is not None
        count = prod(checkpoint.tensors[f"{module}.scales"].shape) * precision.group_size
        squares += count * loss.number(module, low=0.0, high=1e30) ** 2
        weights += count
    return f"{100 * sqrt(squares / weights):.2f} %"


def _quality(
    kl: float, kl_p99: float, same_top: float, perplexity: float, mtp: float | None
) -> tuple[str, ...]:
    agreement = "–" if mtp is None else f"{100 * mtp:.2f} %"
    return f"{kl:.5f}", f"{kl_p99:.4f}", f"{100 * same_top:.2f} %", f"{perplexity:.4f}", agreement


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
