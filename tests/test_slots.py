"""Which expert is in which slot: never two in one, never one lost, and those go that are least wanted."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mlx_qnext.experts.slots import SlotTable

MOST = 7
numbers = st.lists(st.integers(0, MOST - 1), min_size=1, unique=True)
visit_counts = st.lists(st.integers(0, 3), min_size=MOST + 1, max_size=MOST + 1)


def ids(experts: list[int]) -> np.ndarray:
    return np.array(experts, np.int64)


class Tables(RuleBasedStateMachine):
    """A table, and what it should hold: two threads' worth of calls in any order."""

    @initialize(routed=st.integers(1, MOST), slots=st.integers(1, MOST + 2), shared=st.booleans())
    def open(self, routed: int, slots: int, *, shared: bool) -> None:
        self.table = SlotTable(routed, slots, shared=shared)
        self.routed, self.slots = routed, min(slots, routed)
        self.present: dict[int, int] = {}
        self.used: dict[int, int] = {}
        self.clock = 0
        self.filling: dict[int, int] = {}
        self.reading: dict[int, int] = {}
        self.waiting: list[int] = []
        self.needed: list[int] = []
        self.visited: list[int] = []

    def among(self, experts: list[int]) -> list[int]:
        return [e for e in experts if e < self.routed]

    def coming(self) -> dict[int, int]:
        return self.filling | self.reading

    def occupied(self) -> dict[int, int]:
        return self.present | self.coming()

    @rule(experts=numbers, most=st.integers(1, 3))
    def claim(self, experts: list[int], most: int) -> None:
        experts = self.among(experts)
        absent = [e for e in experts if e not in self.occupied() and e not in self.waiting][:most]
        free = set(range(self.slots)) - set(self.occupied().values())
        claimed, slots = (found.tolist() for found in self.table.claim(experts, most))
        assert claimed == absent[: len(free)]
        assert len(set(slots)) == len(slots) == len(claimed)
        assert set(slots) <= free
        if self.table.identity:
            assert slots == claimed
        self.filling |= dict(zip(claimed, slots, strict=True))

    @precondition(lambda self: self.filling)
    @rule(fails=st.booleans())
    def filled(self, *, fails: bool) -> None:
        experts, slots = ids(list(self.filling)), ids(list(self.filling.values()))
        if fails:
            self.table.failed(experts, slots)
        else:
            self.table.arrived(experts, slots)
            self.present |= self.filling
            self.used |= dict.fromkeys(self.filling, 0)
        self.filling = {}

    @precondition(lambda self: not self.visited)
    @rule(experts=numbers)
    def visit(self, experts: list[int]) -> None:
        experts = [e for e in self.among(experts) if e not in self.filling]
        present, absent = (found.tolist() for found in self.table.take_on(ids(experts)))
        assert present == [e for e in experts if e in self.present]
        assert absent == [e for e in experts if e not in self.present]
        self.visited, self.needed, self.waiting = experts, present, absent

    @precondition(lambda self: self.waiting and not self.reading)
    @rule(most=st.integers(1, 3), visits=visit_counts)
    def give(self, most: int, visits: list[int]) -> None:
        asked = self.waiting[:most]
        held = {self.present[e] for e in self.needed} | set(self.coming().values())
        owner = {slot: e for e, slot in self.present.items()}
        wanted = {
            slot: (visits[owner[slot]], self.used[owner[slot]]) if slot in owner else (-1, 0)
            for slot in range(self.slots)
            if slot not in held
        }
        assert self.table.room(ids(self.needed)) == len(wanted)
        found, evicted = self.table.give(ids(asked), ids(self.needed), np.array(visits))
        slots = found.tolist()
        assert len(set(slots)) == len(slots) == min(len(asked), len(wanted))
        if self.table.identity:
            assert slots == asked
            assert not set(slots) & set(owner)
        else:
            assert sorted(wanted[slot] for slot in slots) == sorted(wanted.values())[: len(slots)]
        gone = [owner[slot] for slot in slots if slot in owner]
        assert evicted == len(gone)
        for expert in gone:
            del self.present[expert]
        self.reading = dict(zip(asked, slots))
        self.waiting = self.waiting[len(slots) :]

    @precondition(lambda self: self.reading)
    @rule(fails=st.booleans())
    def arrive(self, *, fails: bool) -> None:
        experts, slots = ids(list(self.reading)), ids(list(self.reading.values()))
        if fails:
            self.table.failed(experts, slots)
        else:
            self.table.arrived(experts, slots)
            self.present |= self.reading
            self.used |= dict.fromkeys(self.reading, 0)
            self.needed += list(self.reading)
        self.reading = {}

    @precondition(lambda self: self.needed)
    @rule()
    def computed(self) -> None:
        self.needed = self.needed[1:]

    @precondition(lambda self: self.visited and not self.reading)
    @rule(used=st.integers(0, MOST))
    def end(self, used: int) -> None:
        """The others were only needed by drafts that were rejected."""
        self.table.failed(ids(self.waiting))
        self.table.touch(ids(self.visited[:used]))
        for expert in self.visited[:used]:
            if expert in self.present:
                self.clock += 1
                self.used[expert] = self.clock
        self.visited, self.needed, self.waiting = [], [], []

    @precondition(lambda self: not self.coming() and not self.waiting)
    @rule(most=st.integers(1, MOST))
    def shrink(self, most: int) -> None:
        hottest = self.table.hottest(most).tolist()
        order = sorted((self.used[e] for e in self.present), reverse=True)
        assert [self.used[e] for e in hottest] == order[:most]
        smaller = SlotTable(self.routed, most, shared=False)
        smaller.seed(ids(hottest[::-1]))
        assert smaller.hottest(most).tolist() == hottest
        assert sorted(smaller.slots_of(ids(hottest)).tolist()) == list(range(len(hottest)))

    @invariant()
    def everyone_is_where_it_was_put(self) -> None:
        table = self.table
        assert table.present == len(self.present)
        assert table.complete == (len(self.present) == self.routed)
        places = table._slot_of[: self.routed]
        assert {e: int(places[e]) for e in np.flatnonzero(places >= 0)} == self.present
        assert len(set(self.occupied().values())) == len(self.occupied())
        if table.identity:
            assert all(e == slot for e, slot in self.occupied().items())
        if len(table._slot_of) > self.routed:
            assert table.slots_of(ids([self.routed])).tolist() == [self.slots]


Tables.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestTables = Tables.TestCase


def served(table: SlotTable, experts: list[int], visits: dict[int, int] | None = None) -> None:
    """One visit from its beginning to its end."""
    present, absent = table.take_on(ids(experts))
    counts = np.array([(visits or {}).get(e, 0) for e in range(table.routed + 1)])
    slots, _ = table.give(absent, present, counts)
    table.arrived(absent, slots)
    table.touch(ids(experts))


def test_the_least_recently_used_goes_first() -> None:
    table = SlotTable(9, 3, shared=True)
    for experts in ([0], [1], [2], [0], [5], [6]):
        served(table, experts)
    assert table.hottest(9).tolist() == [6, 5, 0]


def test_those_with_fewer_visits_go_before_those_used_longer_ago() -> None:
    table = SlotTable(9, 3, shared=False)
    for expert in range(3):
        served(table, [expert])
    served(table, [5], visits={0: 3, 1: 1, 2: 2})
    assert table.hottest(9).tolist() == [5, 2, 0]


def test_what_was_never_used_goes_before_what_was_used_long_ago() -> None:
    table = SlotTable(9, 2, shared=False)
    served(table, [0])
    served(table, [1])
    # A rejected draft's visit: it finds 0, and 2 takes the slot of 1, which was used later.
    present, absent = table.take_on(ids([0, 2]))
    slots, _ = table.give(absent, present, np.zeros(9))
    table.arrived(absent, slots)
    served(table, [3])
    assert table.hottest(9).tolist() == [3, 0]


@pytest.mark.parametrize("slots", [40, 60])
@given(st.lists(st.lists(st.integers(0, 39), min_size=1, unique=True), max_size=10))
@settings(max_examples=30, deadline=None)
def test_two_threads_never_take_on_the_same_expert(slots: int, visits: list[list[int]]) -> None:
    table, filled, read = SlotTable(40, slots, shared=True), list[int](), list[int]()

    def fill() -> None:
        while len((claimed := table.claim(range(40), 3))[0]):
            filled.extend(claimed[0].tolist())
            table.arrived(*claimed)

    background = threading.Thread(target=fill)
    background.start()
    for experts in visits:
        _, absent = table.take_on(ids(experts))
        read.extend(absent.tolist())
        table.arrived(absent, table.give(absent, ids([]), np.zeros(41))[0])
    background.join()
    fill()
    assert sorted(filled + read) == list(range(40))
    assert table.complete


def test_what_the_background_brings_is_waited_for_and_what_it_fails_to_bring_is_taken_on() -> None:
    for brought in (True, False):
        table, answers = SlotTable(4, 4, shared=False), list[list[int]]()
        claimed, slots = table.claim([2], 1)

        def visit(table: SlotTable = table, answers: list[list[int]] = answers) -> None:
            answers.extend(found.tolist() for found in table.take_on(ids([2, 3])))

        visitor = threading.Thread(target=visit)
        visitor.start()
        assert not answers
        if brought:
            table.arrived(claimed, slots)
        else:
            table.failed(claimed, slots)
        visitor.join()
        assert answers == ([[2], [3]] if brought else [[], [2, 3]])


def test_who_needs_a_slot_waits_while_the_background_fills_the_last_one() -> None:
    table = SlotTable(5, 3, shared=False)
    table.arrived(ids([0]), table.give(ids([0]), ids([]), np.zeros(6, np.int64))[0])
    claimed, slots = table.claim([1, 2], 2)
    assert claimed.tolist() == [1, 2]
    waiting = threading.Thread(target=table.await_room, args=(ids([0]),))
    waiting.start()
    assert waiting.is_alive()
    table.arrived(claimed, slots)
    waiting.join(timeout=60)
    assert not waiting.is_alive()
