"""Which positions of a timeline are kept: few, dense where the conversation is, and never the marks of the newest prompt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlx_qnext.cache.hybrid import Snapshot
from mlx_qnext.generate.checkpoints import Checkpoints, Marks

START = Snapshot(0, (), None)


def at(*positions: int, most: int = 8, marks: Marks = Marks()) -> Checkpoints:  # noqa: B008
    checkpoints = Checkpoints(START, most)
    checkpoints.marks = marks
    for position in positions:
        checkpoints.add(Snapshot(position, (), None))
    return checkpoints


ascending = st.lists(st.integers(1, 50_000), min_size=1, max_size=60, unique=True).map(sorted)


@given(ascending, st.integers(3, 9), st.data())
def test_the_newest_and_the_marks_stay_and_no_more_than_there_may_be(
    positions: list[int], most: int, data: st.DataObject
) -> None:
    marks = Marks(*(data.draw(st.sampled_from(positions)) for _ in range(2)))
    kept = at(*positions, most=most, marks=marks).positions
    assert len(kept) <= most
    assert list(kept) == sorted(kept)
    assert {*marks, positions[-1]} <= set(kept)


def test_they_are_sparser_the_further_back() -> None:
    kept = at(*range(100, 100_001, 100), most=12).positions
    gaps = [b - a for a, b in zip((0, *kept), kept)]
    assert gaps == sorted(gaps, reverse=True)
    assert all(gap <= 100_000 - begin for gap, begin in zip(gaps, (0, *kept)))


@given(st.lists(st.integers(30, 400), min_size=20, max_size=100))
def test_going_back_to_any_turn_reads_again_less_than_what_followed_it(lengths: list[int]) -> None:
    ends = [sum(lengths[: n + 1]) for n in range(len(lengths))]
    checkpoints = at(*ends, most=16)
    for end in ends:
        again = end - checkpoints.nearest(end).position
        assert again <= max(max(lengths), ends[-1] - end)


def test_the_nearest_is_the_last_that_the_prompt_shares() -> None:
    checkpoints = at(10, 20, 30)
    assert [checkpoints.nearest(p).position for p in (5, 10, 29, 99)] == [0, 10, 20, 30]


def test_what_was_forgotten_is_not_gone_back_to() -> None:
    checkpoints = at(10, 20, 30)
    checkpoints.forget_beyond(20)
    assert checkpoints.positions == (10, 20)
    assert checkpoints.last.position == 20


def test_a_copy_goes_its_own_way() -> None:
    checkpoints = at(10, 20)
    copied = checkpoints.copy()
    copied.forget_beyond(10)
    assert (checkpoints.positions, copied.positions) == ((10, 20), (10,))
