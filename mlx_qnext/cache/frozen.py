"""A timeline as it can be written to a disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx


@dataclass(frozen=True)
class Frozen:
    """Named arrays and plain facts.

    Attributes:
        arrays: by ASCII names; they may be unevaluated.
        facts: JSON.
    """

    arrays: dict[str, mx.array]
    facts: dict[str, Any]
