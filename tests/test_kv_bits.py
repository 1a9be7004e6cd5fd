"""Keys and values at 8 and 4 bits: continued, taken back and verified as plain ones are, and near to them in what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from builders import write_hf_checkpoint
from tolerances import CONTINUED_QUANTIZED

import mlx_qnext
from mlx_qnext import Engine
from mlx_qnext.cache.kv import (
    GROWING_CACHES,
    GrowingCache,
    check_kv_bits,
    forked,
    held_arrays,
    kv_cache,
    reserve,
)
from mlx_qnext.errors import UsageError
from mlx_qnext.mlx_lm_parts import KVCache, QuantizedKVCache
from quantize.metrics import Reader, compare

TOKENS = [(7 * n + n * n) % 4000 for n in range(24)]

each_width = pytest.mark.parametrize("bits", [8, 4])
each_kind = pytest.mark.parametrize("bits", [None, 8, 4])


def read(engine: Engine, caches: list[Any], tokens: list[int]) -> np.ndarray:
    return np.array(engine.model(mx.array([tokens]), caches))[0]


def recomputed(engine: Engine, bits: int | None, tokens: list[int]) -> np.ndarray:
    return read(engine, engine.model.make_cache(bits), tokens)


def entries(count: int, seed: int) -> tuple[mx.array, mx.array]:
    k, v = (mx.random.normal((1, 2, count, 64), key=key) for key in mx.random.split(mx.random.key(seed)))
    return k, v


def room(cache: GrowingCache) -> int:
    return held_arrays(cache)[0].shape[2]


@each_width
@pytest.mark.parametrize("cuts", [[1], [9, 10, 11]], ids=["one", "single tokens"])
def test_what_is_continued_is_what_is_read_at_once(engine: Engine, bits: int, cuts: list[int]) -> None:
    caches = engine.model.make_cache(bits)
    parts = [read(engine, caches, TOKENS[a:b]) for a, b in zip([0, *cuts], [*cuts, len(TOKENS)], strict=True)]
    CONTINUED_QUANTIZED.check(np.concatenate(parts), recomputed(engine, bits, TOKENS))


@each_width
@pytest.mark.parametrize("kept", [1, 4])
def test_a_verified_prefix_is_a_plain_pass_over_it(engine: Engine, bits: int, kept: int) -> None:
    caches = engine.model.make_cache(bits)
    read(engine, caches, TOKENS[:14])
    hidden, verification = engine.model.verify(mx.array([TOKENS[14:19]]), caches)
    verification.keep(kept)
    after = read(engine, caches, TOKENS[20:])
    expected = recomputed(engine, bits, TOKENS[: 14 + kept] + TOKENS[20:])
    CONTINUED_QUANTIZED.check(np.array(engine.model.logits(hidden))[0, :kept], expected[14 : 14 + kept])
    CONTINUED_QUANTIZED.check(after, expected[14 + kept :])


@each_width
def test_only_keys_and_values_are_quantised(engine: Engine, bits: int) -> None:
    caches = engine.model.make_cache(bits)
    read(engine, caches, TOKENS)
    plain = engine.model.make_cache()
    read(engine, plain, TOKENS)
    for cache, before in zip(caches, plain, strict=True):
        if isinstance(before, KVCache):
            assert isinstance(cache, QuantizedKVCache)
            # In fp32 a group of 64 has a scale and a bias of four bytes each.
            assert cache.nbytes * 32 == before.nbytes * (bits + 1)
        else:
            assert [array.dtype for array in cache.cache] == [mx.float32] * 2
    assert engine.model.mtp is not None
    assert isinstance(engine.model.mtp.make_cache(), KVCache)


def test_logits_stay_near_to_those_of_plain_keys_and_values(engine: Engine) -> None:
    messages = [{"role": "user", "content": "What is 47 + 85?"}, {"role": "assistant", "content": "132"}]
    tokens = mx.array([engine.tokenizer.encode(engine.tokenizer.render(messages, thinking=False))])
    reader = Reader(engine.model.logits, engine.config.vocab_size)

    plain, *others = (engine.model.hidden(tokens, engine.model.make_cache(bits)) for bits in (None, 8, 4))
    at_8, at_4 = (compare(reader, reader, (plain, states), tokens).kl.mean() for states in others)
    assert 0 < at_8 < 1e-3
    assert at_8 < at_4 < 0.1


@each_kind
def test_room_that_is_reserved_is_not_made_again(bits: int | None) -> None:
    cache = kv_cache(bits)
    reserve(cache, 1000)
    cache.update_and_fetch(*entries(10, 0))
    assert room(cache) == 1024
    for seed in range(1, 4):
        cache.update_and_fetch(*entries(300, seed))
    assert room(cache) == 1024
    # Beyond it a cache grows as ever once something else is asked for.
    reserve(cache, 0)
    cache.update_and_fetch(*entries(200, 4))
    assert cache.offset <= room(cache) < cache.offset + 256


@each_kind
@pytest.mark.parametrize("trimmed", [0, 3])
def test_room_is_made_at_once_where_something_is_held(bits: int | None, trimmed: int) -> None:
    straight, reserved = kv_cache(bits), kv_cache(bits)
    for cache in (straight, reserved):
        cache.update_and_fetch(*entries(10, 0))
        cache.trim(trimmed)
    reserve(reserved, 700)
    assert room(reserved) >= reserved.offset + 700
    before = room(reserved)
    for seed in (1, 2):
        for cache in (straight, reserved):
            cache.update_and_fetch(*entries(350, seed))
    assert room(reserved) == before
    for a, b in zip(stored(straight), stored(reserved), strict=True):
        assert mx.array_equal(a, b)


def stored(cache: GrowingCache) -> list[mx.array]:
    """What counts of the arrays."""
    return [array[:, :, : cache.offset] for array in held_arrays(cache)]


@each_kind
@pytest.mark.parametrize("empty", [True, False])
def test_what_one_fork_gains_the_other_does_not_see(bits: int | None, empty: bool) -> None:
    cache = kv_cache(bits)
    if not empty:
        cache.update_and_fetch(*entries(10, 0))
    other = forked(cache)
    before = [np.array(array) for array in held_arrays(other)]
    cache.trim(4)
    cache.update_and_fetch(*entries(5, 1))
    mx.eval(held_arrays(cache))
    assert other.offset == (0 if empty else 10)
    for array, old in zip(held_arrays(other), before, strict=True):
        assert np.array_equal(np.array(array), old)


def test_an_empty_cache_holds_nothing(engine: Engine) -> None:
    caches = [cache for cache in engine.model.make_cache(8) if isinstance(cache, GROWING_CACHES)]
    assert [held_arrays(cache) for cache in caches] == [[], []]


@pytest.mark.parametrize(
    ("refused", "why"),
    [(lambda: check_kv_bits(3, 64), "8 or 4 bits, not at 3"), (lambda: check_kv_bits(8, 96), "96 channels")],
)
def test_what_cannot_be_had_is_refused_with_a_reason(refused: Callable[[], None], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        refused()


def test_heads_that_fill_no_group_are_refused_before_anything_is_read(tmp_path: Any) -> None:
    model, _ = mlx_qnext.load_model(write_hf_checkpoint(tmp_path))
    model.make_cache(None)
    with pytest.raises(UsageError, match="32 channels"):
        model.make_cache(8)
