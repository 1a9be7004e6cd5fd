"""What quantising keys and values costs: a model with them at 8 and 4 bits against itself without, as a Markdown table.

    python -m demo.transcripts mlx_qnext/demo/weights chats.jsonl
    PYTHONPATH=. python benchmarks/kv_bits.py chats.jsonl [--model demo]

Every chat is read from its beginning in one pass, where every token attends to what the cache would hold, and is judged by its
answer. On a CPU unquantised keys and values are in fp32; the row "bf16" rounds them as a GPU holds them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from measure import machine

import mlx_qnext
from mlx_qnext.mlx_lm_parts import KVCache
from mlx_qnext.model.layers import AttentionLayer
from mlx_qnext.model.qwen3_next import Model
from quantize.metrics import Reader, Scores, compare, joined


class RoundedCache(KVCache):
    """Entries rounded to bf16."""

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Any:
        rounded = (x.astype(mx.bfloat16).astype(x.dtype) for x in (keys, values))
        return super().update_and_fetch(*rounded)


def main() -> None:
    arguments = _arguments()
    engine = mlx_qnext.load(arguments.model)
    chats = [json.loads(line) for line in arguments.chats.read_text(encoding="utf-8").splitlines()]
    documents = [(engine.tokenizer.encode(chat["text"]), chat["context_tokens"]) for chat in chats]
    rows = {"bf16": _scores(engine.model, documents, "bf16")} | {
        f"{bits} bits": _scores(engine.model, documents, bits) for bits in (8, 4)
    }
    read = sum(len(tokens) for tokens, _ in documents)
    print(
        f"{machine()}; {read:,} tokens of {len(chats)} chats, longest {max(len(t) for t, _ in documents)}\n"
    )
    print("| keys and values | KL, mean | KL, 99th percentile | same token | perplexity | unquantised |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, s in rows.items():
        perplexity, before = (np.exp(x.mean()) for x in (s.surprise, s.source_surprise))
        print(
            f"| {name} | {s.kl.mean():.1e} | {np.percentile(s.kl, 99):.1e} | {100 * s.same_top.mean():.2f} % "
            f"| {perplexity:.4f} | {before:.4f} |"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("chats", type=Path, help="as demo.transcripts writes them")
    parser.add_argument("--model", default="demo")
    return parser.parse_args()


def _scores(model: Model, documents: Sequence[tuple[list[int], int]], held: int | str) -> Scores:
    reader = Reader(model.logits, model.config.vocab_size)
    found = []
    for tokens, context in documents:
        inputs = mx.array([tokens])
        states = [model.hidden(inputs, cache) for cache in (model.make_cache(), _cache(model, held))]
        # Position t predicts token t + 1: the first of the answer is that at `context`.
        answers = np.arange(1, len(tokens)) >= context
        found.append(compare(reader, reader, states, inputs).where(answers))
    return joined(found)


def _cache(model: Model, held: int | str) -> list[Any]:
    if isinstance(held, int):
        return model.make_cache(held)
    caches = zip(model.make_cache(), model.layers, strict=True)
    return [RoundedCache() if isinstance(layer, AttentionLayer) else cache for cache, layer in caches]


if __name__ == "__main__":
    main()
