"""Which expert is in which slot of one layer, and which slot is given up next: bookkeeping alone, no bytes.

Two threads meet here: the one that generates, which alone evicts, and the background reader, which only takes slots that
are free. An expert is absent, coming (one of the two has taken it on itself to read it) or present.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

_NONE = -1


class SlotTable:
    """Experts `0 … routed - 1` in as many slots or fewer; slots are given up least recently used first.

    With a slot for every expert, expert n is in slot n. An expert more, the shared one, may stand behind the others: it has
    a slot of its own behind theirs and never leaves it.

    Attributes:
        present: how many of the routed experts are in their slots.
    """

    def __init__(self, routed: int, slots: int, *, shared: bool) -> None:
        self.routed, self.slots = routed, min(slots, routed)
        self.present = 0
        self._slot_of = np.full(routed + shared, _NONE)
        self._expert_in = np.full(self.slots, _NONE)
        self._used = np.zeros(self.slots, np.int64)
        self._clock = 0
        self._coming: set[int] = set()
        self._change = threading.Condition()
        if shared:
            self._slot_of[routed] = self.slots

    @property
    def identity(self) -> bool:
        """Whether every expert has a slot of its own."""
        return self.slots == self.routed

    @property
    def complete(self) -> bool:
        """Whether every expert is in its slot."""
        return self.present == self.routed

    def slots_of(self, experts: np.ndarray) -> np.ndarray:
        """The slots of experts that are present."""
        return self._slot_of[experts]

    def take_on(self, experts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those that are present, and those that are not, which are coming now; what the other thread brings is waited for."""
        with self._change:
            self._change.wait_for(lambda: self._coming.isdisjoint(experts.tolist()))
            present = self._slot_of[experts] != _NONE
            self._coming.update(experts[~present].tolist())
        return experts[present], experts[~present]

    def claim(self, experts: Sequence[int], most: int) -> tuple[np.ndarray, np.ndarray]:
        """Up to `most` of the experts, the first that are absent, and free slots for them: they are coming now."""
        with self._change:
            absent = [e for e in experts if self._slot_of[e] == _NONE and e not in self._coming][:most]
            free = absent if self.identity else np.flatnonzero(self._expert_in == _NONE).tolist()
            claimed = np.array(absent[: len(free)], np.int64)
            slots = np.array(free[: len(claimed)], np.int64)
            self._coming.update(claimed.tolist())
            self._expert_in[slots] = claimed
        return claimed, slots

    def room(self, needed: np.ndarray) -> int:
        """How many slots can be given to experts that are coming, while those `needed`, which are present, stay."""
        with self._change:
            return int((~self._held(needed)).sum())

    def await_room(self, needed: np.ndarray) -> None:
        """Return when a slot can be given: until then the background may be filling all those that are not `needed`."""
        with self._change:
            self._change.wait_for(lambda: self.identity or not self._held(needed).all())

    def give(self, experts: np.ndarray, needed: np.ndarray, visits: np.ndarray) -> tuple[np.ndarray, int]:
        """Slots for as many of the coming `experts` as there is room for, and how many experts were evicted for them.

        Where experts have no slot of their own, free slots go first, then those of the experts with the fewest `visits` (by
        expert), of these the least recently used. Experts `needed` stay.
        """
        with self._change:
            slots = experts if self.identity else self._candidates(needed, visits)[: len(experts)]
            gone = self._expert_in[slots]
            gone = gone[gone != _NONE]
            self._slot_of[gone] = _NONE
            self.present -= len(gone)
            self._expert_in[slots] = experts[: len(slots)]
            self._used[slots] = 0
        return slots, len(gone)

    def arrived(self, experts: np.ndarray, slots: np.ndarray) -> None:
        """Experts that were coming are present."""
        with self._change:
            self._slot_of[experts] = slots
            self.present += len(experts)
            self._coming.difference_update(experts.tolist())
            self._change.notify_all()

    def failed(self, experts: np.ndarray, slots: np.ndarray | None = None) -> None:
        """Of the experts, those that are still coming, into `slots` where they had some, are absent."""
        with self._change:
            if slots is not None:
                self._expert_in[slots[[e in self._coming for e in experts.tolist()]]] = _NONE
            self._coming.difference_update(experts.tolist())
            self._change.notify_all()

    def touch(self, experts: np.ndarray) -> None:
        """Experts were used, the last one most recently; the shared one is not asked about."""
        slots = self._slot_of[experts[experts < self.routed]]
        slots = slots[slots != _NONE]
        self._used[slots] = self._clock + 1 + np.arange(len(slots))
        self._clock += len(slots)

    def hottest(self, most: int) -> np.ndarray:
        """Up to `most` experts that are present, the most recently used first."""
        with self._change:
            self._change.wait_for(lambda: not self._coming)
            held = np.flatnonzero(self._expert_in != _NONE)
            return self._expert_in[held[np.argsort(-self._used[held], kind="stable")]][:most]

    def seed(self, experts: np.ndarray) -> None:
        """Put experts, the last one used most recently, into the first slots of an empty table."""
        slots = np.arange(len(experts))
        self._slot_of[experts], self._expert_in[slots] = slots, experts
        self.present = len(experts)
        self.touch(experts)

    def _candidates(self, needed: np.ndarray, visits: np.ndarray) -> np.ndarray:
        free = np.flatnonzero(~self._held(needed))
        experts = self._expert_in[free]
        visited = np.where(experts == _NONE, -1, visits[experts])
        return free[np.lexsort((self._used[free], visited))]

    def _held(self, needed: np.ndarray) -> np.ndarray:
        """By slot, whether it may not be given up: what is in it is needed, or still coming."""
        held = (self._expert_in != _NONE) & (self._slot_of[self._expert_in] == _NONE)
        held[self._slot_of[needed[needed < self.routed]]] = True
        return held
