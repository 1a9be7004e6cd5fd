"""Keys and values of one attention layer: plain, or quantised to 8 or 4 bits as they come in.

The classes are mlx-lm's, so that its own tools work on them. Both grow, and are truncated by `trim`.
"""

from __future__ import annotations

from copy import copy
from typing import TypeAlias, TypeVar

import mlx.core as mx

from mlx_qnext.errors import UsageError
from mlx_qnext.mlx_lm_parts import KVCache, QuantizedKVCache

GrowingCache: TypeAlias = KVCache | QuantizedKVCache
"""A cache that gains an entry per token."""

GROWING_CACHES = (KVCache, QuantizedKVCache)
"""The same for `isinstance`."""

CacheT = TypeVar("CacheT", KVCache, QuantizedKVCache)
Stored: TypeAlias = mx.array | tuple[mx.array, ...]

KV_BITS = (8, 4)
"""To how many bits keys and values can be quantised."""

KV_GROUP = 64
"""How many channels of a head share a scale and a bias."""


def kv_cache(bits: int | None = None) -> GrowingCache:
    """An empty cache; with `bits`, one whose entries are quantised per token and head, in groups of `KV_GROUP` channels."""
    return KVCache() if bits is None else QuantizedKVCache(group_size=KV_GROUP, bits=bits)


def check_kv_bits(bits: int | None, head_dim: int) -> None:
    """Refuse what cannot be had of heads of this width.

    Raises:
        UsageError: another number of bits, or heads that do not fill whole groups.
    """
    if bits is None:
        return
    if bits not in KV_BITS:
        raise UsageError(f"keys and values can be held at 8 or 4 bits, not at {bits}")
    if head_dim % KV_GROUP:
        raise UsageError(
            f"keys and values of this model cannot be quantised: its heads have {head_dim} channels, "
            f"which is no multiple of {KV_GROUP}; leave out the bits of keys and values"
        )


def held_arrays(cache: GrowingCache) -> list[mx.array]:
    """Every array of the cache, for evaluation; none while it is empty."""
    return [] if cache.keys is None else [*parts_of(cache.keys), *parts_of(cache.values)]


def forked(cache: CacheT) -> CacheT:
    """A cache that holds the same entries; the first of the two to gain one copies them then."""
    copied = copy(cache)
    if cache.keys is not None:
        copied.keys, copied.values = _of_its_own(cache.keys), _of_its_own(cache.values)
    return copied


def reserve(cache: GrowingCache, tokens: int) -> None:
    """Make room for `tokens` more entries at once: now, or in an empty cache together with its first entries.

    Without it a cache grows 256 entries at a time, and copies itself each time. A further call puts that step back.
    """
    cache.step = type(cache).step
    if cache.keys is None:
        cache.step = _in_steps(tokens, cache.step)
        return
    missing = cache.offset + tokens - parts_of(cache.keys)[0].shape[2]
    if missing > 0:
        more = _in_steps(missing, cache.step)
        cache.keys, cache.values = _longer(cache.keys, more), _longer(cache.values, more)


def _in_steps(tokens: int, step: int) -> int:
    return max(1, -(-tokens // step)) * step


def parts_of(stored: Stored) -> tuple[mx.array, ...]:
    """Packed integers, scales and biases of quantised entries; the array itself of plain ones."""
    return (stored,) if isinstance(stored, mx.array) else tuple(stored)


def _of_its_own(stored: Stored) -> Stored:
    # Entries are written into the array object that a cache holds, so each cache needs objects of its own.
    own = tuple(mx.array(part) for part in parts_of(stored))
    return own[0] if isinstance(stored, mx.array) else own


def _longer(stored: mx.array | tuple[mx.array, ...], entries: int) -> Stored:
    # Quantised or not, entries lie along the third axis.
    longer = tuple(mx.pad(part, [(0, 0), (0, 0), (0, entries), (0, 0)]) for part in parts_of(stored))
    return longer[0] if isinstance(stored, mx.array) else longer
