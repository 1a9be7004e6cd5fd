"""A batch that echoes: for what becomes of results, without a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fakes.engine import finished

from mlx_qnext.errors import ContextLengthError
from mlx_qnext.generate.batch_request import BatchRequest, BatchResult


def run_batch(
    engine: object, requests: Iterable[tuple[int, BatchRequest]], concurrency: int
) -> Iterator[BatchResult]:
    """Echoes each question, out of order; one that says "fail" fails, and one that says "tell" has a notice."""
    for number, request in sorted(requests, key=lambda each: -each[0] % 7):
        text = request.messages[-1]["content"]
        failed = text == "fail"
        outcome = ContextLengthError("It is too long.") if failed else finished(text)
        yield BatchResult(number, outcome, ("Something was met.",) if text == "tell" else ())
