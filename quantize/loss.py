"""What rounding did to the weights: relative errors by tensor, by part, and the worst."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from mlx_qnext.sizes import PARTS, Part, part_of


@dataclass(frozen=True)
class Loss:
    """Σ (w - ŵ)² and Σ w² over some weights; of different weights, they add up."""

    squared_error: float = 0.0
    squared_sum: float = 0.0

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.squared_error + other.squared_error, self.squared_sum + other.squared_sum)

    @property
    def relative(self) -> float:
        """Root mean square of the error over that of the weights; 0 where all weights are."""
        return sqrt(self.squared_error / self.squared_sum) if self.squared_sum else 0.0


def by_part(losses: Mapping[str, Loss]) -> dict[Part, Loss]:
    """The parts of the model that were rounded, with the loss of all their weights together."""
    parts: dict[Part, Loss] = {}
    for name, loss in losses.items():
        part = part_of(f"{name}.weight")
        parts[part] = parts.get(part, Loss()) + loss
    return {part: parts[part] for part in PARTS if part in parts}


def worst(losses: Mapping[str, Loss], count: int = 10) -> list[tuple[str, Loss]]:
    """The modules that lost most, relative to their size, the worst first."""
    return sorted(losses.items(), key=lambda item: (-item[1].relative, item[0]))[:count]
