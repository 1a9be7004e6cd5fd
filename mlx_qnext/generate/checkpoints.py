"""The positions that a timeline can be taken back to, and which of them are worth their memory."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from mlx_qnext.cache.hybrid import Snapshot

# Where nothing says how many there is memory for.
DEFAULT_MOST_CHECKPOINTS = 8


class Marks(NamedTuple):
    """Positions of a prompt that are worth coming back to, as numbers of tokens; 0 is none.

    Attributes:
        system: the end of the system message and the tools: any other conversation with these goes on from there.
        turn: what the next turn's prompt begins with again: there it leaves this one, where thoughts are stripped.
    """

    system: int = 0
    turn: int = 0


class Checkpoints:
    """Snapshots of one timeline by position, a bounded number of them; its start is always there and not counted.

    Every snapshot keeps a whole recurrent state alive, whatever lies between. When there is one too many, that one goes which
    saves least: the tokens between it and the one before it, over its distance from the newest. So they are dense where the
    conversation is, and ever sparser towards its beginning. The marks of the newest prompt stay.
    """

    def __init__(self, start: Snapshot, most: int = DEFAULT_MOST_CHECKPOINTS) -> None:
        self.start, self._most = start, most
        self.marks = Marks()
        self._kept: list[Snapshot] = []

    @property
    def positions(self) -> tuple[int, ...]:
        """Where the snapshots are, the start left out."""
        return tuple(snapshot.position for snapshot in self._kept)

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """All of them, by position, the start left out."""
        return tuple(self._kept)

    @property
    def last(self) -> Snapshot:
        """The one that lies furthest."""
        return self._kept[-1] if self._kept else self.start

    def nearest(self, position: int, *, drafting: bool = False) -> Snapshot:
        """The last one at or before `position`; with `drafting` one to which the MTP head followed, or the start."""
        fit = [s for s in self._kept if s.position <= position and (s.head or not drafting)]
        return fit[-1] if fit else self.start

    def add(self, snapshot: Snapshot) -> None:
        """Keep this one too, none of which lies beyond it; at the position of another it takes its place."""
        if self._kept and self._kept[-1].position == snapshot.position:
            # The same states; only one of the two may know where the head was, and what the trunk's own was.
            there = self._kept[-1]
            head, hidden = (
                snapshot.head or there.head,
                there.hidden if snapshot.hidden is None else snapshot.hidden,
            )
            self._kept[-1] = replace(snapshot, head=head, hidden=hidden)
        elif snapshot.position > self.start.position:
            self._kept.append(snapshot)
        if len(self._kept) > self._most:
            self._kept.remove(min(self._kept[:-1], key=self._worth))

    def forget_beyond(self, position: int) -> None:
        """Keep those at or before `position`."""
        self._kept = [snapshot for snapshot in self._kept if snapshot.position <= position]

    def copy(self) -> Checkpoints:
        """The same snapshots, of which either can go on without the other."""
        copied = Checkpoints(self.start, self._most)
        copied.marks, copied._kept = self.marks, list(self._kept)
        return copied

    def _worth(self, snapshot: Snapshot) -> tuple[bool, float]:
        at = self._kept.index(snapshot)
        before = self._kept[at - 1].position if at else self.start.position
        saved, distance = snapshot.position - before, self._kept[-1].position - snapshot.position
        return snapshot.position in self.marks, saved / distance
