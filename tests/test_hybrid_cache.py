"""A cache taken back to a snapshot is the cache that was there, for both kinds of layers."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_qnext import Engine
from mlx_qnext.cache.hybrid import HybridCache
from mlx_qnext.generate.timeline import Timeline

tokens_lists = st.lists(st.integers(0, 4000), min_size=1, max_size=12)


def run(engine: Engine, cache: HybridCache, tokens: list[int]) -> np.ndarray:
    logits = engine.model(mx.array([tokens]), cache.layers)[0, -1]
    cache.advance(len(tokens))
    return np.array(logits)


@settings(max_examples=15, deadline=None)
@given(tokens_lists, tokens_lists, tokens_lists)
def test_going_on_from_a_snapshot_is_bit_for_bit_what_it_was(
    engine: Engine, before: list[int], astray: list[int], after: list[int]
) -> None:
    straight, rewound = (HybridCache(engine.model.make_cache()) for _ in range(2))
    for cache in (straight, rewound):
        run(engine, cache, before)
    snapshot = rewound.snapshot()
    run(engine, rewound, astray)
    rewound.rewind(snapshot)
    assert rewound.position == straight.position
    assert (run(engine, rewound, after) == run(engine, straight, after)).all()


def test_an_empty_cache_can_be_returned_to(engine: Engine) -> None:
    cache = HybridCache(engine.model.make_cache())
    start = cache.snapshot()
    first = run(engine, cache, [5, 6, 7])
    cache.rewind(start)
    assert cache.position == 0
    assert (run(engine, cache, [5, 6, 7]) == first).all()


def test_a_snapshot_ahead_of_the_cache_is_refused(engine: Engine) -> None:
    cache = HybridCache(engine.model.make_cache())
    start = cache.snapshot()
    run(engine, cache, [5, 6, 7])
    ahead = cache.snapshot()
    cache.rewind(start)
    with pytest.raises(ValueError, match="forward"):
        cache.rewind(ahead)


@settings(max_examples=20, deadline=None)
@given(tokens_lists, st.data())
def test_reuse_returns_to_a_remembered_position_that_the_prompt_shares(
    engine: Engine, tokens: list[int], data: st.DataObject
) -> None:
    timeline = Timeline(HybridCache(engine.model.make_cache()))
    remembered = data.draw(st.integers(1, len(tokens)))
    for part in (tokens[:remembered], tokens[remembered:]):
        if part:
            engine.model(mx.array([part]), timeline.cache.layers)
            timeline.append(part)
            timeline.remember()
    shared = data.draw(st.integers(0, len(tokens)))
    prompt = [*tokens[:shared], 4095, 4094]
    cached = timeline.reuse(prompt)
    expected = max(p for p in (0, remembered, len(tokens)) if p <= shared)
    assert cached == timeline.cache.position == expected
    assert timeline.tokens == prompt[:cached]


def drafting_timeline(engine: Engine) -> Timeline:
    timeline = engine.session()._timeline
    assert timeline.cache.head is not None
    return timeline


def read(engine: Engine, timeline: Timeline, tokens: list[int], *, following: bool) -> None:
    """Run tokens and remember the position, the MTP head following or not."""
    states = engine.model.hidden(mx.array([tokens]), timeline.cache.layers)
    timeline.append(tokens)
    if following and timeline.cache.head is not None:
        timeline.cache.head.follow(states)
    timeline.remember()


def test_who_drafts_goes_back_to_where_the_head_followed_and_who_does_not_stays(engine: Engine) -> None:
    timeline = drafting_timeline(engine)
    read(engine, timeline, [1, 2, 3], following=True)
    read(engine, timeline, [4, 5], following=False)
    assert timeline.reuse([1, 2, 3, 4, 5, 6]) == 5
    assert not timeline.cache.head_follows
    assert timeline.reuse([1, 2, 3, 4, 5, 6], drafting=True) == 3
    assert timeline.cache.head_follows
    assert timeline.tokens == [1, 2, 3]


def test_a_snapshot_brings_the_heads_position_back(engine: Engine) -> None:
    timeline = drafting_timeline(engine)
    read(engine, timeline, [1, 2, 3], following=True)
    read(engine, timeline, [4, 5], following=True)
    assert timeline.reuse([1, 2, 3, 9, 9], drafting=True) == 3
    assert timeline.cache.head is not None
    assert timeline.cache.head.position == 3


def test_only_tokens_just_verified_can_be_let_go(engine: Engine) -> None:
    timeline = drafting_timeline(engine)
    _, verification = engine.model.verify(mx.array([[1, 2, 3]]), timeline.cache.layers)
    timeline.append([1, 2, 3], verification)
    timeline.keep(2)
    assert (timeline.tokens, timeline.cache.position) == ([1, 2], 2)
    engine.model(mx.array([[7]]), timeline.cache.layers)
    timeline.append([7])
    with pytest.raises(ValueError, match="not verified"):
        timeline.keep(1)
