"""Experts read when they are routed to give, bit for bit, what experts that are all in memory give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from pooled import (
    DEMO,
    MTP,
    Decoding,
    Read,
    check_same,
    check_slots,
    decoded,
    pooled,
    read_prompt,
    resident,
)
from tiny_pools import EXPERTS, KINDS, TOP_K
from tolerances import CONTINUED_TRAINED

from mlx_qnext.cache.head import HeadCache
from mlx_qnext.cache.hybrid import HybridCache
from mlx_qnext.experts import store as store_module
from mlx_qnext.experts.files import WeightFiles
from mlx_qnext.experts.pool import Pool
from mlx_qnext.experts.visits import Wave
from mlx_qnext.generate.drafter import Drafter
from mlx_qnext.generate.prefill import prefill
from mlx_qnext.generate.timeline import Timeline
from mlx_qnext.model.qwen3_next import Model

DEMO_EXPERTS, DEMO_TOP_K = 32, 4
PROMPT = np.random.default_rng(0).integers(5, 500, 150).tolist()
SHORT = np.random.default_rng(1).integers(5, 90, 80).tolist()
REMEMBER_AT = 60


class Recorded(WeightFiles):
    """Weight files that tell what was read of them: file, first byte, last byte and one."""

    def __init__(self, paths: set[Path]) -> None:
        super().__init__(paths)
        self.ranges: list[tuple[Path, int, int]] = []

    def read(self, path: Path, offset: int, buffers: Sequence[memoryview]) -> int:
        count = super().read(path, offset, buffers)
        self.ranges.append((path, offset, offset + count))
        return count

    @property
    def count_bytes(self) -> int:
        return sum(end - start for _, start, end in self.ranges)

    def check_no_byte_was_read_twice(self) -> None:
        for (path, _, end), (other, start, _) in pairwise(sorted(self.ranges)):
            assert path != other or end <= start


class Visited:
    """Which experts the pools are asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ids: dict[str, list[np.ndarray]] = {}
        serve = Pool.serve

        def spy(pool: Pool, ids: np.ndarray, certain: int | None = None) -> Iterator[Wave]:
            self.ids.setdefault(pool.stored.path, []).append(ids)
            return serve(pool, ids, certain)

        monkeypatch.setattr(Pool, "serve", spy)


@pytest.fixture(scope="module")
def demo() -> Model:
    return resident(DEMO)


@pytest.fixture(scope="module")
def demo_decoded(demo: Model) -> list[np.ndarray]:
    return decoded(demo)


@pytest.fixture(scope="module")
def demo_decoded_long(demo: Model) -> list[np.ndarray]:
    return decoded(demo, 1, 40)


@pytest.fixture(scope="module")
def demo_read(demo: Model) -> Read:
    return read_prompt(demo, PROMPT, REMEMBER_AT)


@pytest.fixture(params=KINDS)
def tiny(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return KINDS[request.param](tmp_path / "model")


@pytest.fixture(params=["hf bf16", "up at more bits"])
def unlike(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """One kind whose values are widened, tensor by tensor, and one whose gate and up lie apart."""
    return KINDS[request.param](tmp_path / "model")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return KINDS["4 bits by 64"](tmp_path / "model")


def check_read(actual: Read, expected: Read) -> None:
    """The same to the bit, snapshots too."""
    assert actual.said == expected.said
    check_same([actual.logits], [expected.logits])
    assert [position for position, _ in actual.snapshots] == [position for position, _ in expected.snapshots]
    for (_, ours), (_, theirs) in zip(actual.snapshots, expected.snapshots, strict=True):
        check_same(ours, theirs)


class TestDecoding:
    """Plain steps and verifications that keep a part, against those of the resident model."""

    @pytest.mark.parametrize("slots", [DEMO_TOP_K, 5, 13, DEMO_EXPERTS])
    def test_trained_experts_give_the_same_for_every_budget(
        self, slots: int, demo: Model, demo_decoded: list[np.ndarray]
    ) -> None:
        with pooled(DEMO, slots) as streamed:
            check_same(decoded(streamed.model), demo_decoded)
            check_slots(streamed.model, demo)

    @pytest.mark.slow
    @pytest.mark.parametrize("slots", [DEMO_TOP_K, *range(6, DEMO_EXPERTS, 6), DEMO_EXPERTS])
    def test_trained_experts_give_the_same_over_many_steps(
        self, slots: int, demo_decoded_long: list[np.ndarray]
    ) -> None:
        with pooled(DEMO, slots) as streamed:
            check_same(decoded(streamed.model, 1, 40), demo_decoded_long)

    def test_a_whole_prompt_in_one_call_is_close(self, demo: Model) -> None:
        tokens = mx.array([PROMPT[:60]])
        expected = np.array(demo(tokens, demo.make_cache()))
        with pooled(DEMO, 12) as streamed:
            actual = np.array(streamed.model(tokens, streamed.model.make_cache()))
        CONTINUED_TRAINED.check(actual, expected)

    def test_pools_that_the_background_has_filled_give_the_same(
        self, demo: Model, demo_decoded: list[np.ndarray]
    ) -> None:
        with pooled(DEMO, DEMO_EXPERTS) as streamed:
            streamed.store.fill({})
            streamed.store.wait_until_filled()
            assert streamed.store.complete
            check_slots(streamed.model, demo)
            check_same(decoded(streamed.model), demo_decoded)
            assert streamed.store.counts.misses == 0

    @pytest.mark.parametrize(("slots", "filled"), [(EXPERTS, True), (6, True), (6, False), (TOP_K, False)])
    def test_pools_that_shrink_in_between_give_the_same(
        self, slots: int, small: Path, *, filled: bool
    ) -> None:
        model = resident(small)
        with pooled(small, slots) as streamed:
            if filled:
                streamed.store.fill({path: range(EXPERTS) for path in streamed.store.pools})
                streamed.store.wait_until_filled()
            cache, expected = streamed.model.make_cache(), model.make_cache()
            for seed in range(4):
                before = streamed.store.resident_bytes
                freed = streamed.store.shrink(0.3, TOP_K) if seed else 0
                assert streamed.store.resident_bytes == before - freed
                check_slots(streamed.model, model)
                check_same(
                    decoded(streamed.model, seed, 2, cache=cache), decoded(model, seed, 2, cache=expected)
                )
            assert {pool.table.slots for pool in streamed.store.pools.values()} == {TOP_K}

    def test_trained_experts_give_the_same_when_a_complete_pool_shrinks(
        self, demo: Model, demo_decoded: list[np.ndarray]
    ) -> None:
        with pooled(DEMO, DEMO_EXPERTS) as streamed:
            streamed.store.fill({})
            streamed.store.wait_until_filled()
            check_same(decoded(streamed.model, steps=1), demo_decoded[:2])
            streamed.store.shrink(0.75, DEMO_TOP_K)
            check_slots(streamed.model, demo)
            check_same(decoded(streamed.model), demo_decoded)

    def test_shrinking_keeps_what_was_used_last(self, small: Path) -> None:
        with pooled(small, EXPERTS) as streamed:
            decoded(streamed.model)
            hot = streamed.store.hottest()
            streamed.store.shrink(0.5, TOP_K)
            assert streamed.store.hottest() == {path: experts[:4] for path, experts in hot.items()}


class TestStorage:
    """Decoding, then a prompt, on tiny models in every way that experts are stored."""

    @pytest.mark.parametrize(
        "budgets", [(TOP_K, 5, EXPERTS), pytest.param((3, 4, 6, 7), marks=pytest.mark.slow)]
    )
    def test_every_kind_gives_the_same_for_every_budget(self, budgets: tuple[int, ...], tiny: Path) -> None:
        model = resident(tiny)
        expected, read = decoded(model, steps=4), read_prompt(model, SHORT, 50)
        for slots in budgets:
            with pooled(tiny, slots) as streamed:
                check_same(decoded(streamed.model, steps=4), expected)
                check_slots(streamed.model, model)
                check_read(read_prompt(streamed.model, SHORT, 50), read)
                check_slots(streamed.model, model)


class TestWithoutWritingInPlace:
    """Where MLX would not see what is written into its arrays, each expert is copied, and everything is the same."""

    @pytest.fixture(autouse=True)
    def unseen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store_module, "writes_are_seen", lambda: False)

    def test_decoding_is_the_same_and_nothing_is_filled(self, unlike: Path) -> None:
        model = resident(unlike)
        expected = decoded(model)
        for slots in (TOP_K, EXPERTS):
            with pooled(unlike, slots) as streamed:
                streamed.store.fill({})
                streamed.store.wait_until_filled()
                assert streamed.store.resident_bytes == 0
                check_same(decoded(streamed.model), expected)
                check_slots(streamed.model, model)

    def test_shrinking_is_the_same(self, small: Path) -> None:
        model = resident(small)
        with pooled(small, EXPERTS) as streamed:
            check_same(decoded(streamed.model), decoded(model))
            streamed.store.shrink(0.5, TOP_K)
            check_slots(streamed.model, model)
            check_same(decoded(streamed.model, 1), decoded(model, 1))

    @pytest.mark.parametrize("slots", [TOP_K, EXPERTS])
    def test_prompts_are_the_same(self, slots: int, small: Path) -> None:
        model = resident(small)
        with pooled(small, slots) as streamed:
            check_read(read_prompt(streamed.model, SHORT, 50), read_prompt(model, SHORT, 50))
            check_slots(streamed.model, model)


class TestPrompts:
    """Layer by layer against in chunks: answers, and snapshots on the way."""

    @pytest.mark.parametrize("slots", [DEMO_TOP_K, 13, pytest.param(DEMO_EXPERTS, marks=pytest.mark.slow)])
    def test_one_span_is_the_same_to_the_bit(self, slots: int, demo: Model, demo_read: Read) -> None:
        with pooled(DEMO, slots) as streamed:
            check_read(read_prompt(streamed.model, PROMPT, REMEMBER_AT), demo_read)
            check_slots(streamed.model, demo)

    @pytest.mark.parametrize(
        ("slots", "span"), [(12, 90), pytest.param(4, 32, marks=pytest.mark.slow), (DEMO_EXPERTS, 110)]
    )
    def test_several_spans_are_close_and_say_the_same(
        self, slots: int, span: int, demo: Model, demo_read: Read
    ) -> None:
        with pooled(DEMO, slots) as streamed:
            actual = read_prompt(streamed.model, PROMPT, REMEMBER_AT, span)
            check_slots(streamed.model, demo)
        assert actual.said == demo_read.said
        CONTINUED_TRAINED.check(actual.logits, demo_read.logits, "logits")
        for (ours, arrays), (theirs, expected) in zip(actual.snapshots, demo_read.snapshots, strict=True):
            assert ours == theirs
            for a, b in zip(arrays, expected, strict=True):
                CONTINUED_TRAINED.check(a, b, f"states at {ours}")

    @pytest.mark.parametrize("remember_at", [0, 1, 79, 80])
    def test_snapshots_land_where_they_are_wanted(self, remember_at: int, small: Path) -> None:
        expected = read_prompt(resident(small), SHORT, remember_at)
        with pooled(small, 3) as streamed:
            check_read(read_prompt(streamed.model, SHORT, remember_at), expected)

    @pytest.mark.parametrize("slots", [TOP_K, 5])
    def test_the_busiest_stay(self, slots: int, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        visited = Visited(monkeypatch)
        with pooled(small, slots) as streamed:
            read_prompt(streamed.model, SHORT, 80, say=1)
            for path, (ids,) in visited.ids.items():
                visits = np.bincount(ids.reshape(-1), minlength=EXPERTS)[:EXPERTS]
                present = streamed.store.hottest()[path]
                assert len(present) == slots
                assert sorted(visits[present]) == sorted(visits)[-slots:]

    def test_nothing_is_read_for_the_head(self, small: Path) -> None:
        with pooled(small, TOP_K) as streamed:
            model = streamed.model
            assert model.mtp is not None
            head = HeadCache(model.mtp.make_cache())
            timeline = Timeline(HybridCache(model.make_cache(), head))
            for _ in prefill(model, timeline, SHORT, drafter=Drafter(model, model.mtp, timeline, head)):
                pass
            assert head.kv.offset == len(SHORT) - 1
            assert streamed.store.pools[MTP].counts.misses == 0
            assert streamed.store.pools[MTP].table.present == 0
            assert streamed.store.counts.misses > 0


class TestReading:
    """What is read of the files."""

    @pytest.mark.parametrize("slots", [TOP_K, 5, EXPERTS])
    def test_a_span_reads_no_byte_twice(self, slots: int, unlike: Path) -> None:
        with pooled(unlike, slots, Recorded) as streamed:
            files = streamed.store._reader._files
            assert isinstance(files, Recorded)
            for start in (0, 40):
                files.ranges.clear()
                read_prompt(streamed.model, SHORT[start:], 20, say=1)
                files.check_no_byte_was_read_twice()

    @pytest.mark.parametrize("slots", [TOP_K, 5, EXPERTS])
    def test_bytes_read_are_misses_times_an_experts_bytes(self, slots: int, unlike: Path) -> None:
        with pooled(unlike, slots, Recorded) as streamed:
            files = streamed.store._reader._files
            assert isinstance(files, Recorded)
            files.ranges.clear()
            decoded(streamed.model)
            read_prompt(streamed.model, SHORT, 50)
            for pool in streamed.store.pools.values():
                assert pool.counts.read_bytes == pool.counts.misses * pool.stored.nbytes
                assert pool.counts.misses == pool.counts.evicted + pool.table.present
            assert files.count_bytes == streamed.store.counts.read_bytes > 0

    def test_hits_and_misses_are_distinct_experts_of_a_visit(self, small: Path) -> None:
        with pooled(small, 4) as streamed:
            pool = next(iter(streamed.store.pools.values()))
            for rows in ([[0, 1]], [[1, 2], [2, 1]], [[0, 3], [0, 1]]):
                visit(pool, rows)
            assert (pool.counts.hits, pool.counts.misses) == (3, 4)


def visit(pool: Pool, rows: list[list[int]], certain: int | None = None) -> None:
    """Visit the routed experts of every token, and the shared one."""
    for _ in pool.serve(np.array([[*row, pool.stored.routed] for row in rows]), certain):
        pass


def present(pool: Pool) -> set[int]:
    return set(pool.table.hottest(EXPERTS).tolist())


class TestDrafts:
    """Experts of tokens that may be rejected."""

    @pytest.fixture
    def pool(self, small: Path) -> Iterator[Pool]:
        with pooled(small, 4) as streamed:
            yield next(iter(streamed.store.pools.values()))

    def test_those_read_for_rejected_drafts_go_first(self, pool: Pool) -> None:
        visit(pool, [[0, 1]])
        visit(pool, [[2, 3]])
        visit(pool, [[0, 1], [4, 5]], certain=1)
        pool.promote(0)
        visit(pool, [[6, 7]])
        assert present(pool) == {0, 1, 6, 7}

    def test_those_read_for_accepted_drafts_stay(self, pool: Pool) -> None:
        visit(pool, [[0, 1], [4, 5]], certain=1)
        pool.promote(1)
        visit(pool, [[6, 7]])
        assert present(pool) == {4, 5, 6, 7}

    def test_those_that_were_there_are_no_younger_for_it(self, pool: Pool) -> None:
        visit(pool, [[0, 1]])
        visit(pool, [[2, 3]])
        visit(pool, [[2, 3], [0, 1]], certain=1)
        pool.promote(0)
        visit(pool, [[6, 7]])
        assert present(pool) == {2, 3, 6, 7}

    @pytest.mark.parametrize("keep", [1, 2, 4])
    def test_a_verification_counts_what_it_keeps(
        self, keep: int, small: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        visited = Visited(monkeypatch)
        with pooled(small, EXPERTS - 1) as streamed:
            Decoding(streamed.model).verify([3, 11, 40, 70], keep)
            for path, (ids,) in visited.ids.items():
                kept = set(ids[:keep].reshape(-1).tolist()) - {EXPERTS}
                assert set(streamed.store.hottest()[path][: len(kept)]) == kept
                used = streamed.store.pools[path].table._used
                assert (used > 0).sum() == len(kept)


def test_a_slot_is_written_to_only_when_what_reads_it_is_computed(small: Path) -> None:
    with pooled(small, TOP_K) as streamed:
        pool = next(iter(streamed.store.pools.values()))
        visit(pool, [[0, 1]])
        (wave,) = pool.serve(np.array([[0, 1, EXPERTS]]))
        slots = mx.array(wave.slots.astype(np.uint32))
        before = np.array(pool.down().weight[slots])
        # Long after a read would be over, this output still reads its slots.
        late = mx.random.normal((600, 600))
        for _ in range(6):
            late = late @ late * 0
        output = pool.down().weight[slots + late[0, 0].astype(mx.uint32)]
        pool.using(wave.slots, output)
        visit(pool, [[2, 3]])
        assert (np.array(output) == before).all()


def test_the_hot_set_is_filled_in_first(small: Path) -> None:
    hot: dict[str, list[int]] = {}
    with pooled(small, 3) as streamed:
        hot = {path: [7, 2, 99, -1, 5, 6] for path in streamed.store.pools}
        streamed.store.fill(hot)
        streamed.store.wait_until_filled()
        for pool in streamed.store.pools.values():
            assert present(pool) == {7, 2, 5}
        check_slots(streamed.model, resident(small))
        assert streamed.store.counts.read_bytes == 0


def test_a_budget_of_every_size_holds_no_more_than_it_says(small: Path) -> None:
    for slots in (TOP_K, 5, EXPERTS):
        with pooled(small, slots) as streamed:
            decoded(streamed.model)
            assert all(pool.table.present <= slots for pool in streamed.store.pools.values())
            assert streamed.store.resident_bytes <= streamed.store.total_bytes * slots // EXPERTS
