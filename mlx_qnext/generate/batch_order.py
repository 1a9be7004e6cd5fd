"""In which order the prompts of a batch are read, so that what some begin with alike is read once.

Sorted by their tokens, the prompts that share most are neighbours: one timeline reads them all, and goes back from each to
where it parts from the next. For that it has to have remembered the place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from mlx_qnext.errors import QnextError
from mlx_qnext.generate.batch_prompt import Prepared, prepared
from mlx_qnext.generate.batch_request import BatchRequest, BatchResult
from mlx_qnext.generate.checkpoints import Marks
from mlx_qnext.generate.timeline import shared_length

if TYPE_CHECKING:
    from mlx_qnext.generate.engine import Engine

# So many requests are rendered and sorted together; a longer batch never has all of its tokens in memory.
WINDOW_REQUESTS = 1024
# A shorter start, a template's first words for one, costs less to read again than to remember.
LEAST_SHARED_TOKENS = 16


def in_reading_order(
    engine: Engine, requests: Iterable[tuple[int, BatchRequest]], window: int = WINDOW_REQUESTS
) -> Iterator[Prepared | BatchResult]:
    """The numbered requests, those that share most next to each other; a failed result for each that cannot be asked.

    The marks of each prompt are where later ones part from it.
    """
    numbered = iter(requests)
    while taken := list(islice(numbered, window)):
        sound: list[Prepared] = []
        for number, request in taken:
            try:
                sound.append(prepared(engine, number, request))
            except QnextError as error:
                yield BatchResult(number, error)
        sound.sort(key=lambda each: each.prompt.token_ids)
        marks = partings([each.prompt.token_ids for each in sound])
        for each, (system, turn) in zip(sound, marks, strict=True):
            yield replace(each, prompt=replace(each.prompt, system_tokens=system, lasting_tokens=turn))


def partings(prompts: Sequence[Sequence[int]]) -> list[Marks]:
    """For each of the sorted prompts, how much of it the farthest and the nearest of those after it begin with; 0 is nothing
    that is worth remembering.

    The last token of a prompt is always read again: its state starts the answer.
    """
    after: tuple[int, ...] = ()
    marks = [Marks()] * len(prompts)
    shared = [_shared(a, b) for a, b in pairwise(prompts)]
    for at in reversed(range(len(shared))):
        # What still later prompts share with this one is shared by all between.
        after = (*(length for length in after if length < shared[at]), shared[at])
        worth = [length for length in after if length >= LEAST_SHARED_TOKENS]
        if worth:
            marks[at] = Marks(worth[0], worth[-1])
    return marks


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    return min(shared_length(a, b), len(a) - 1, len(b) - 1)
