"""Rounds that follow a script: how deep each one drafts, and how many of its drafts stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlx_qnext.generate.depth import DraftDepth
from mlx_qnext.generate.drafter import Drafter
from mlx_qnext.generate.sampler import Draft, Sampler


class ScriptedDepth(DraftDepth):
    """Takes the depths of a script one after another, then its last; learns nothing.

    Attributes:
        seen: depth, accepted drafts and seconds of every pass.
    """

    def __init__(self, depths: Sequence[int]) -> None:
        super().__init__()
        self._script = list(depths)
        self.seen: list[tuple[int, int, float | None]] = []

    def choose(self) -> int:
        return self._script.pop(0) if len(self._script) > 1 else self._script[0]

    def observe(self, depth: int, accepted: int, seconds: float | None) -> None:
        self.seen.append((depth, accepted, seconds))


class ScriptedDrafter(Drafter):
    """Knows what the model will say from `start` on, and drafts that up to where the script wants a draft to fall.

    The head drafts too, so that its memory goes through what it goes through; its drafts are not used.
    """

    said: Sequence[int]
    start: int
    accepted: Sequence[int]

    def draft(self, token: mx.array, depth: int, sampler: Sampler) -> Draft:
        drafted = super().draft(token, depth, sampler)
        at = len(self._timeline.tokens) - self.start + 1
        tokens = list(self.said[at : at + depth])
        rounds = list(self.accepted)
        self.accepted = rounds[1:]
        if rounds and rounds[0] < depth:
            tokens[rounds[0]] = (tokens[rounds[0]] + 1) % 4000
        return drafted._replace(tokens=mx.array(tokens, dtype=drafted.tokens.dtype))


def scripted(said: Sequence[int], start: int, accepted: Sequence[int]) -> type[ScriptedDrafter]:
    """A class that takes the place of `Drafter`; what follows `accepted` stands."""
    script: dict[str, Any] = {"said": said, "start": start, "accepted": accepted}
    return type("Scripted", (ScriptedDrafter,), script)
