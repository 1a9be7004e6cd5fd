"""Saving and loading a long session at the 80B shape, against plainly writing and reading as many bytes, and beside mlx-lm.

`python benchmarks/sessions.py [--tokens N] [--positions N] [--rounds N] [--folder DIR]`. Times are the best
of all rounds, since other work on the machine only adds. Cold is with nothing of the file in the system's page cache, where the
system can be asked for that.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, cast

import mlx.core as mx

from benchmarks.measure import machine
from mlx_qnext.cache.freezing import freeze, thaw
from mlx_qnext.cache.hybrid import HybridCache, Snapshot
from mlx_qnext.cache.shapes import CacheShapes
from mlx_qnext.mlx_lm_parts import ArraysCache, KVCache
from mlx_qnext.sessions.identity import Identity
from mlx_qnext.sessions.library import SessionLibrary

LAYERS, ATTENTION_EVERY = 48, 4
KV_HEADS, HEAD_DIM = 2, 256
STATE, WINDOW = (1, 32, 128, 128), (1, 3, 8192)
# What mlx-lm's cache has room for beyond the tokens in it.
ROOM = 256
BLOCK_BYTES = 16 << 20
ENTRIES = ((KV_HEADS, HEAD_DIM),)
SHAPES = CacheShapes((WINDOW, STATE), ENTRIES, ENTRIES, hidden=2048)
IDENTITY = Identity("80B shape", "random", "none", None, "bfloat16")


@dataclass(frozen=True)
class Program:
    """One way to save to a folder and to load from it; `file` is what it wrote there."""

    name: str
    save: Callable[[Path], object]
    load: Callable[[Path], object]
    file: Callable[[Path], Path]


def make_cache(tokens: int) -> HybridCache:
    """Keys, values and states of random numbers."""
    keys = mx.random.normal((1, KV_HEADS, tokens + ROOM, HEAD_DIM), mx.bfloat16)
    layers = []
    for number in range(LAYERS):
        if (number + 1) % ATTENTION_EVERY:
            layer = ArraysCache(size=2)
            layer.cache = [mx.random.normal(WINDOW, mx.bfloat16), mx.random.normal(STATE)]
        else:
            layer = KVCache()
            layer.keys, layer.values, layer.offset = keys + number, keys - number, tokens
        layers.append(layer)
    cache = HybridCache(layers)
    cache.position = tokens
    mx.eval(cache.arrays())
    return cache


def make_snapshots(cache: HybridCache, count: int) -> list[Snapshot]:
    """Positions before the end, each with states of its own."""
    snapshots = []
    for number in range(1, count + 1):
        states = tuple(
            tuple(array + number for array in layer.cache if array is not None) for layer in cache.recurrent
        )
        mx.eval(states)
        snapshots.append(Snapshot(cache.position * number // (count + 1), states, None))
    return snapshots


def own(cache: HybridCache, snapshots: Sequence[Snapshot]) -> Program:
    """A session: everything that a timeline remembers."""

    def save(folder: Path) -> None:
        library = SessionLibrary(folder / "sessions")
        known = library.latest()
        with library.open(known) if known else library.create("long") as opened:
            refused = opened.save(freeze(cache, snapshots), [], {}, IDENTITY)
            assert refused is None, refused

    def load(folder: Path) -> None:
        with SessionLibrary(folder / "sessions").open("long") as opened:
            thaw(opened.frozen(IDENTITY), make_empty(), SHAPES)

    def file(folder: Path) -> Path:
        return next((folder / "sessions" / "long").glob("cache-*"))

    return Program("qnext", save, load, file)


def make_empty() -> HybridCache:
    """A cache of the same kind that has seen nothing."""
    numbers = range(LAYERS)
    return HybridCache([ArraysCache(size=2) if (n + 1) % ATTENTION_EVERY else KVCache() for n in numbers])


def mlx_lm(cache: HybridCache) -> Program:
    """The layers' caches as mlx-lm's programs save them: no other positions, no digests, no flush to the disk."""
    from mlx_lm.models.cache import load_prompt_cache, save_prompt_cache

    def file(folder: Path) -> Path:
        return folder / "prompt.safetensors"

    def load(folder: Path) -> None:
        mx.eval([cast(Any, layer).state for layer in load_prompt_cache(str(file(folder)))])

    return Program("mlx-lm", lambda folder: save_prompt_cache(str(file(folder)), cache.layers), load, file)


def plain_read(path: Path) -> None:
    """Every byte, block by block into one buffer."""
    buffer = bytearray(BLOCK_BYTES)
    with path.open("rb", buffering=0) as source:
        offset = 0
        while read := os.preadv(source.fileno(), [buffer], offset):
            offset += read


def plain_write(path: Path, nbytes: int) -> None:
    """As many bytes out of one buffer, on the disk itself, in place of the file that was there until then."""
    buffer = memoryview(os.urandom(BLOCK_BYTES))
    fresh = path.with_suffix(".new")
    with fresh.open("wb", buffering=0) as target:
        for start in range(0, nbytes, BLOCK_BYTES):
            target.write(buffer[: nbytes - start])
        os.fsync(target.fileno())
    fresh.replace(path)


def digests(threads: int, nbytes: int = 1 << 29) -> str:
    """A row of a table: what each digest takes in, in so many threads."""
    content = [memoryview(os.urandom(BLOCK_BYTES))] * (nbytes // BLOCK_BYTES)
    kinds: list[Callable[[memoryview], object]] = [zlib.crc32, hashlib.sha256, hashlib.blake2b]
    with ThreadPoolExecutor(threads) as pool:
        speeds = [
            nbytes / min(timed(lambda k=k: list(pool.map(k, content))) for _ in range(5)) for k in kinds
        ]
    return f"| {threads} | {' | '.join(f'{speed / 1e9:.2f} GB/s' for speed in speeds)} |"


def forget(path: Path) -> None:
    """Nothing of the file is in the page cache, where the system can be asked."""
    if not hasattr(os, "posix_fadvise"):
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """Seconds of the work alone."""
    before()
    mx.clear_cache()
    start = perf_counter()
    work()
    return perf_counter() - start


def measure(program: Program, folder: Path) -> dict[str, float]:
    """Seconds of one round, the plain ones beside the program's."""
    spare = folder / f"plain-{program.name}"
    nbytes = program.file(folder).stat().st_size
    write, save = timed(lambda: plain_write(spare, nbytes)), timed(lambda: program.save(folder))
    warm_read, warm = _pair(program, folder, plain_read)
    cold_read, cold = _pair(program, folder, forget)
    names = ("write", "save", "warm read", "warm", "cold read", "cold")
    return dict(zip(names, (write, save, warm_read, warm, cold_read, cold), strict=True))


def row(program: Program, folder: Path, rounds: Sequence[dict[str, float]]) -> str:
    """A row of the table, from the best of all rounds."""
    best = {name: min(times[name] for times in rounds) for name in rounds[0]}
    pairs = [("save", "write"), ("warm", "warm read"), ("cold", "cold read")]
    cells = [
        f"{best[name]:.2f} s, {best[name] / best[plain]:.2f}× {best[plain]:.2f} s" for name, plain in pairs
    ]
    nbytes, peak_bytes = program.file(folder).stat().st_size, _peak_of(lambda: program.save(folder))
    return f"| {program.name} | {nbytes / 1e9:.2f} GB | {' | '.join(cells)} | {peak_bytes / 1e9:.2f} GB |"


def _pair(program: Program, folder: Path, before: Callable[[Path], object]) -> tuple[float, float]:
    path = program.file(folder)
    plain = timed(lambda: plain_read(path), lambda: before(path))
    return plain, timed(lambda: program.load(folder), lambda: before(path))


def _peak_of(work: Callable[[], object]) -> int:
    """What MLX took beyond what it held."""
    mx.clear_cache()
    mx.reset_peak_memory()
    held = mx.get_active_memory()
    work()
    return mx.get_peak_memory() - held


def main() -> None:
    """Both programs, by turns, in one table; and the digests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--positions", type=int, default=5, help="including the last")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; a temporary one by default")
    asked = parser.parse_args()
    print(f"{machine()}, {os.cpu_count()} cores, {asked.tokens} tokens, {asked.positions} positions\n")
    cache = make_cache(asked.tokens)
    programs = [own(cache, make_snapshots(cache, asked.positions - 1)), mlx_lm(cache)]
    print(
        "| | file | save, × a plain write | load warm, × a plain read | load cold, × a plain read | memory while saving |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    with TemporaryDirectory(dir=asked.folder) as folder:
        for program in programs:
            program.save(Path(folder))
        rounds = [[measure(program, Path(folder)) for program in programs] for _ in range(asked.rounds)]
        for program, times in zip(programs, zip(*rounds, strict=True), strict=True):
            print(row(program, Path(folder), times))

    print("\n| threads | CRC-32 | SHA-256 | BLAKE2b |\n|---|---:|---:|---:|")
    for threads in (1, os.cpu_count() or 1):
        print(digests(threads))


if __name__ == "__main__":
    main()
