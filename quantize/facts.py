"""What a conversion makes, as views, the model card and the manifest tell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.config import ModelConfig
from mlx_qnext.sizes import Part, bytes_by_part, count_parameters, precisions_by_part
from quantize.evaluate import Quality
from quantize.loss import Loss
from quantize.recipe import Recipe


@dataclass(frozen=True)
class Facts:
    """One conversion's outcome; before the work, without losses.

    Attributes:
        source: as people name it. target: what was given the source's MTP head, `None` where all is the source's.
        losses: of each module that was rounded, in the order of the model.
        quality: of the whole model against its source, where it was evaluated.
        sizes, precisions: of each part. bits_per_weight: all bytes over all weights.
    """

    source: str
    target: str | None
    recipe: Recipe
    losses: Mapping[str, Loss]
    quality: Quality | None
    sizes: Mapping[Part, int]
    precisions: Mapping[Part, tuple[str, ...]]
    bits_per_weight: float
    has_mtp: bool

    @classmethod
    def gather(
        cls,
        checkpoint: Checkpoint,
        source: str,
        target: str | None,
        recipe: Recipe,
        losses: Mapping[str, Loss],
        quality: Quality | None,
    ) -> Facts:
        """Those of a quantised checkpoint."""
        sizes = bytes_by_part(checkpoint)
        weights = count_parameters(checkpoint, ModelConfig.from_dict(checkpoint.config)).total
        return cls(
            source,
            target,
            recipe,
            losses,
            quality,
            sizes,
            precisions_by_part(checkpoint),
            8 * sum(sizes.values()) / weights,
            checkpoint.has_mtp,
        )

    @property
    def total_bytes(self) -> int:
        """Of all weights."""
        return sum(self.sizes.values())

    @property
    def loss(self) -> Loss:
        """Of all rounded weights together."""
        return sum(self.losses.values(), Loss())
