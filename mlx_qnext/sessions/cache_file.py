"""A cache as one safetensors file: written from MLX's memory, and read with every byte compared.

Of each tensor's bytes the CRC-32 is kept. It finds every damage of up to 32 bits in a row and all but one in 2³² of others, and
costs less than half of what SHA-256 does; against somebody who may write to the user's own files no digest beside them helps.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import mlx.core as mx

from mlx_qnext.cache.frozen import Frozen
from mlx_qnext.disk import create_private, flush, write_at
from mlx_qnext.errors import CheckpointError
from mlx_qnext.safetensors_header import LENGTH_BYTES, header_bytes, parse_header
from mlx_qnext.sessions.manifest import CacheEntry, Unreadable

_DTYPES = {
    mx.bool_: "BOOL",
    mx.uint8: "U8",
    mx.int8: "I8",
    mx.uint16: "U16",
    mx.int16: "I16",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.uint32: "U32",
    mx.int32: "I32",
    mx.float32: "F32",
    mx.uint64: "U64",
    mx.int64: "I64",
}
# Arrays are computed and read so many bytes at a time.
BATCH_BYTES = 64 << 20
# An interrupt is heard between two writes.
_WRITE_BYTES = 16 << 20
_THREADS = 8


def write_cache(path: Path, frozen: Frozen) -> tuple[int, str, dict[str, int]]:
    """The cache is in the new file `path`, on the disk itself; returns its size, its header's digest, and its tensors'.

    Arrays are computed, written and let go of a few at a time, which leaves `frozen` without any. MLX's own writer would leave
    all of them computed, which takes the memory of a second cache, and would hear of an interrupt only when it is done.

    Raises:
        OSError: the disk refuses. After this or any other failure there is no such file.
    """
    shapes = [(name, _DTYPES[array.dtype], array.shape) for name, array in frozen.arrays.items()]
    header = header_bytes(shapes, {"facts": json.dumps(frozen.facts, separators=(",", ":"))})
    nbytes = len(header) + sum(array.nbytes for array in frozen.arrays.values())
    # Rather than fill the user's disk to the brim and find out then.
    if nbytes > shutil.disk_usage(path.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    descriptor = create_private(path)
    try:
        write_at(descriptor, header, 0)
        digests = _write_arrays(descriptor, len(header), frozen.arrays)
        flush(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return nbytes, sha256(header).hexdigest(), digests


def _write_arrays(descriptor: int, offset: int, arrays: dict[str, mx.array]) -> dict[str, int]:
    digests: dict[str, int] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for names in _batches(arrays):
            contents = _bytes_of([arrays.pop(name) for name in names])
            found = pool.map(crc32, contents)
            for content in contents:
                for start in range(0, content.nbytes, _WRITE_BYTES):
                    write_at(descriptor, content[start : start + _WRITE_BYTES], offset + start)
                offset += content.nbytes
            digests |= zip(names, found, strict=True)
    return digests


def _batches(arrays: Mapping[str, mx.array]) -> list[list[str]]:
    """The names in their order, as many at a time as are worth waking another thread for."""
    batches: list[list[str]] = [[]]
    nbytes = 0
    for name, array in arrays.items():
        if nbytes >= BATCH_BYTES:
            batches.append([])
            nbytes = 0
        batches[-1].append(name)
        nbytes += array.nbytes
    return batches


def _bytes_of(arrays: Sequence[mx.array]) -> list[memoryview]:
    """The arrays' own memory, which is as long alive as these."""
    # Python has no name for bfloat16.
    named = [array.view(mx.uint16) if array.dtype == mx.bfloat16 else array for array in arrays]
    whole = [mx.contiguous(array) for array in named]
    mx.eval(whole)
    return [memoryview(cast(Any, array)).cast("B") if array.nbytes else memoryview(b"") for array in whole]


def read_cache(path: Path, entry: CacheEntry) -> Frozen:
    """What was written to `path`, every byte of it.

    Raises:
        Unreadable: it is not what was written.
    """
    facts = _checked_facts(path, entry)
    try:
        arrays = mx.load(str(path)) if entry.digests else {}
        assert isinstance(arrays, dict)
        changed = _changed(arrays, entry.digests)
    # MLX says no more than that.
    except RuntimeError as error:
        raise Unreadable(f"has a cache that cannot be read ({' '.join(str(error).split())})") from None
    if changed is not None:
        raise Unreadable(f"has a cache that was damaged on disk, in its tensor {changed}")
    return Frozen(arrays, facts)


def _checked_facts(path: Path, entry: CacheEntry) -> dict[str, Any]:
    """The facts in the header of a file that has the right size and names."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry.nbytes:
                raise Unreadable(f"has a cache of {size} bytes, and {entry.nbytes} were saved")
            start = file.read(LENGTH_BYTES)
            content = file.read(min(int.from_bytes(start, "little"), size))
    except FileNotFoundError:
        raise Unreadable(f"lacks its cache, the file {path.name}") from None
    except OSError as error:
        raise Unreadable(f"has a cache that cannot be read ({error.strerror})") from None
    damaged = Unreadable("has a cache that was damaged on disk, in its header")
    if sha256(start + content).hexdigest() != entry.header:
        raise damaged
    try:
        header = parse_header(content, path, size)
        facts = json.loads(header.metadata["facts"])
    except (CheckpointError, ValueError, KeyError, RecursionError):
        raise damaged from None
    if not isinstance(facts, dict) or {tensor.name for tensor in header.tensors} != entry.digests.keys():
        raise damaged
    return facts


def _changed(arrays: Mapping[str, mx.array], digests: Mapping[str, int]) -> str | None:
    """The first tensor whose bytes are others; those that are read already are compared while the next ones are."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = [
            (name, pool.submit(crc32, content))
            for names in _batches(arrays)
            for name, content in zip(names, _bytes_of([arrays[name] for name in names]), strict=True)
        ]
    return next((name for name, digest in found if digest.result() != digests[name]), None)
