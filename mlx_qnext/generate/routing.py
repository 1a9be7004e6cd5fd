"""Which experts a prompt visits, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Routing:
    """How often the tokens of one prompt visited each expert.

    Attributes:
        paths: the layers' modules, as `model.layers.3.mlp`.
        counts: `[layers, experts]`, visits.
    """

    paths: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def used(self) -> tuple[int, ...]:
        """For each layer, how many of its experts were visited at all."""
        return tuple(sum(visits > 0 for visits in row) for row in self.counts)

    def covering(self, share: float) -> float:
        """The share of a layer's experts that takes `share` of its visits, the most visited ones first.

        The mean over the layers that were visited; 0 where none was.
        """
        shares = [_fewest(row, share) / len(row) for row in self.counts if any(row)]
        return sum(shares) / len(shares) if shares else 0.0


def _fewest(row: tuple[int, ...], share: float) -> int:
    """The fewest experts whose visits are at least `share` of the row's."""
    missing = share * sum(row)
    for number, visits in enumerate(sorted(row, reverse=True)):
        if missing <= 0:
            return number
        missing -= visits
    return len(row)
