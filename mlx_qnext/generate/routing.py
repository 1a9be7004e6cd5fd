"""Which experts a prompt visits, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlx_qnext.model.sweep import sweep

if TYPE_CHECKING:
    from mlx_qnext.generate.engine import Engine


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


def routing_of(engine: Engine, tokens: Sequence[int]) -> Routing:
    """The routing of `tokens`, at least one, read from the beginning of a context; layers without a router are left out.

    Raises:
        CheckpointError: an expert cannot be read.
    """
    counts: dict[int, np.ndarray] = {}

    def count(layer: int, ids: np.ndarray) -> None:
        counts[layer] = counts.get(layer, 0) + np.bincount(
            ids.reshape(-1), minlength=engine.config.num_experts
        )

    plan, cache = engine.plan, engine.model.make_cache(engine.plan.kv_bits)
    span, chunk = plan.span_tokens, plan.chunk_tokens
    for start in range(0, len(tokens), span):
        part = tokens[start : start + span]
        ends = [*range(chunk, len(part), chunk), len(part)]
        for _ in sweep(engine.model.model, part, cache, ends, watch=count):
            pass
    paths = tuple(f"model.layers.{layer}.mlp" for layer in counts)
    return Routing(paths, tuple(tuple(row.tolist()) for row in counts.values()))


def _fewest(row: tuple[int, ...], share: float) -> int:
    """The fewest experts whose visits are at least `share` of the row's."""
    missing = share * sum(row)
    for number, visits in enumerate(sorted(row, reverse=True)):
        if missing <= 0:
            return number
        missing -= visits
    return len(row)
