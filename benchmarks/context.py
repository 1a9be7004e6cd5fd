"""Memory and time against context length, at the 80B shape, with keys and values at 16, 8 and 4 bits, as Markdown tables.

    PYTHONPATH=. python benchmarks/context.py [--layers 4] [--lengths 1024 … 262144] [--chunk 256] [--kv 16 8 4]

The caches are filled with random entries up to each length but the last chunk; then that chunk goes through the layers, and a
few tokens are decoded. So the last chunk of a prompt is measured without reading the prompt. Four layers are one group, three
recurrent and one with attention; `--layers 48` is the whole model and needs 60 GB of GPU memory; `--layers 0` leaves out this
part. Then attention alone, on the same chunk, stands beside the call that mlx-lm makes of it, which is not cut into blocks.

Workspace is what was taken beyond weights, keys and values. 16 bits are what the back end computes in: 32 on a CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import mlx.core as mx
from measure import machine

from benchmarks.shape import FULL_SHAPE
from benchmarks.synthetic import SyntheticCheckpoint
from mlx_qnext.cache.kv import GROWING_CACHES, GrowingCache, held_arrays, kv_cache, reserve
from mlx_qnext.mlx_lm_parts import ArraysCache, scaled_dot_product_attention
from mlx_qnext.model.loading import build_model
from mlx_qnext.model.qwen3_next import Model
from mlx_qnext.ops.attention import attention
from mlx_qnext.ops.device import compute_dtype

LENGTHS = [1 << n for n in range(10, 19)]
DECODED = 8
# Entries that are made at once while a cache is filled.
FILLED_AT_ONCE = 8192
HEADS, KEY_HEADS, HEAD_DIM = (
    FULL_SHAPE[name] for name in ("num_attention_heads", "num_key_value_heads", "head_dim")
)


class Measured(NamedTuple):
    """Seconds of a computation, and what it took beyond what was held before."""

    seconds: float
    peak_bytes: int


def main() -> None:
    arguments = _arguments()
    print(f"{machine()}; chunks of {arguments.chunk} tokens\n", flush=True)
    if arguments.layers:
        _layers(arguments)
    _attention(arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--kv", type=int, nargs="+", default=[16, 8, 4], choices=[16, 8, 4])
    parser.add_argument("--repeats", type=int, default=2, help="of which the fastest counts")
    return parser.parse_args()


def _layers(arguments: argparse.Namespace) -> None:
    model, _ = build_model(SyntheticCheckpoint.make(FULL_SHAPE | {"num_hidden_layers": arguments.layers}))
    mx.eval(model.parameters())
    print(f"{arguments.layers} layers, {mx.get_active_memory() / 1e9:.1f} GB of weights\n")
    print("| tokens | kv bits | keys and values, MB | last chunk, s | tok/s | decode, ms | workspace, MB |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    # Before anything counts, whatever is compiled on first use is.
    for bits in arguments.kv:
        _chunk_and_tokens(model, arguments.chunk + 1, arguments.chunk, bits)
    for length in arguments.lengths:
        read = min(arguments.chunk, length)
        for bits in arguments.kv:
            chunk, decode_s, held_bytes = _chunk_and_tokens(model, length, read, bits)
            print(
                f"| {length:,} | {bits} | {held_bytes / 1e6:,.1f} | {chunk.seconds:.2f} "
                f"| {read / chunk.seconds:,.1f} | {1e3 * decode_s:.1f} | {chunk.peak_bytes / 1e6:,.0f} |",
                flush=True,
            )
    print()


def _chunk_and_tokens(model: Model, length: int, chunk: int, bits: int) -> tuple[Measured, float, int]:
    """The last chunk up to `length`, seconds of a token decoded after it, and the bytes of keys and values."""
    caches = _filled(model, length - chunk, chunk + DECODED, bits)
    tokens = mx.random.randint(0, 1000, (1, chunk))
    read = _measured(lambda: model.logits(model.hidden(tokens, caches)[:, -1:]))
    token, steps_s = mx.array([[1]]), []
    for _ in range(DECODED):
        start = perf_counter()
        token = mx.argmax(model(token, caches), axis=-1)
        token.item()
        steps_s.append(perf_counter() - start)
    held = [array for cache in caches if isinstance(cache, GROWING_CACHES) for array in held_arrays(cache)]
    return read, median(steps_s), sum(array.nbytes for array in held)


def _filled(model: Model, length: int, more: int, bits: int) -> list[Any]:
    """Caches as after `length` tokens, with room for more; recurrent layers begin anew, as their state's size is one."""
    caches = model.make_cache(None if bits == 16 else bits)
    for cache in caches:
        if not isinstance(cache, ArraysCache):
            _fill(cache, length, more)
    return caches


def _fill(cache: GrowingCache, length: int, more: int) -> None:
    reserve(cache, length + more)
    dtype = compute_dtype(mx.bfloat16)
    for start in range(0, length, FILLED_AT_ONCE):
        shape = (1, KEY_HEADS, min(FILLED_AT_ONCE, length - start), HEAD_DIM)
        cache.update_and_fetch(*(mx.random.normal(shape, dtype) for _ in range(2)))
        mx.eval(held_arrays(cache))


def _attention(arguments: argparse.Namespace) -> None:
    print("| tokens | kv bits | qnext, ms | mlx-lm, ms | | qnext's peak, MB | mlx-lm's peak, MB |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for length in arguments.lengths:
        for bits in arguments.kv:
            ours, theirs = _beside(length, min(arguments.chunk, length), bits, arguments.repeats)
            print(
                f"| {length:,} | {bits} | {1e3 * ours.seconds:,.1f} | {1e3 * theirs.seconds:,.1f} "
                f"| {theirs.seconds / ours.seconds:.2f}× | {ours.peak_bytes / 1e6:,.0f} | {theirs.peak_bytes / 1e6:,.0f} |",
                flush=True,
            )


def _beside(length: int, chunk: int, bits: int, repeats: int) -> tuple[Measured, Measured]:
    """Attention of a chunk over `length` entries: ours, and mlx-lm's call."""
    cache = kv_cache(None if bits == 16 else bits)
    _fill(cache, length, 0)
    k, v = cache.keys_and_values()
    q = mx.random.normal((1, HEADS, chunk, HEAD_DIM), compute_dtype(mx.bfloat16))

    def peer() -> mx.array:
        # It scales the object that it is given.
        own = mx.array(q)
        return scaled_dot_product_attention(own, k, v, cache=cache, scale=HEAD_DIM**-0.5, mask="causal")

    forms = (lambda: attention(q, k, v, "causal", cache)), peer
    runs = [[_measured(form) for form in forms] for _ in range(repeats)]
    ours, theirs = (min(of_form, key=lambda run: run.seconds) for of_form in zip(*runs, strict=True))
    return ours, theirs


def _measured(compute: Callable[[], mx.array]) -> Measured:
    mx.synchronize()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    start = perf_counter()
    mx.eval(compute())
    mx.synchronize()
    return Measured(perf_counter() - start, mx.get_peak_memory() - before)


if __name__ == "__main__":
    main()
