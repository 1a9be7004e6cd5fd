"""What one request of a batch asks, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_qnext.errors import QnextError
from mlx_qnext.generate.events import Finished
from mlx_qnext.generate.request import GenerationConfig


@dataclass(frozen=True)
class BatchRequest:
    """Messages to answer, and how; as `Session.generate` takes them."""

    messages: Sequence[Mapping[str, Any]]
    config: GenerationConfig
    tools: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class BatchResult:
    """What came of the `number`-th request, from 0.

    Attributes:
        outcome: its answer, or why it has none.
        notices: what the request should know of its answer: messages left out, a limit met. Sentences.
    """

    number: int
    outcome: Finished | QnextError
    notices: tuple[str, ...] = ()
