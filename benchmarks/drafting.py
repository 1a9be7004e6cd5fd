"""Speculative rounds for benchmarks: at a fixed depth from the first token on, watched round by round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

from measure import GREEDY

from mlx_qnext.cache.head import HeadCache
from mlx_qnext.cache.hybrid import HybridCache
from mlx_qnext.generate.depth import DraftDepth
from mlx_qnext.generate.drafter import Drafter
from mlx_qnext.generate.prefill import prefill
from mlx_qnext.generate.sampler import Sampler
from mlx_qnext.generate.speculative import Speculation
from mlx_qnext.generate.timeline import Timeline
from mlx_qnext.model.qwen3_next import Model


class FixedDepth(DraftDepth):
    """Always the same depth, without the plain steps that an answer begins with."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self._always = depth

    def choose(self) -> int:
        return self._always

    def observe(self, depth: int, accepted: int, seconds: float | None) -> None:
        pass


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        rounds: for every pass of the model the position of the first token it ran, and how many tokens it emitted.
        seconds: from the first token to the last.
    """

    tokens: list[int]
    rounds: list[tuple[int, int]]
    seconds: float


def new_timeline(model: Model) -> Timeline:
    """A timeline whose MTP head follows it."""
    assert model.mtp is not None
    return Timeline(HybridCache(model.make_cache(), HeadCache(model.mtp.make_cache())))


def drafter_of(model: Model, timeline: Timeline, kind: type[Drafter] = Drafter) -> Drafter:
    """The drafter of a timeline that `new_timeline` made."""
    assert model.mtp is not None
    assert timeline.cache.head is not None
    return kind(model, model.mtp, timeline, timeline.cache.head)


def answer(
    model: Model, prompt: Sequence[int], depth: DraftDepth, limit: int, eos_ids: frozenset[int] = frozenset()
) -> Answer:
    """A greedy answer of up to `limit` tokens, in rounds of the depths that `depth` chooses."""
    timeline = new_timeline(model)
    drafter = drafter_of(model, timeline)
    *_, read = prefill(model, timeline, prompt, drafter=drafter)
    hidden = read.hidden
    sampler = Sampler(GREEDY, model.config.vocab_size, [], seed=0)
    groups = Speculation(model, timeline, sampler, drafter, depth).groups(hidden)
    tokens: list[int] = []
    rounds: list[tuple[int, int]] = []
    start = perf_counter()
    for group in _until_end(groups, limit, eos_ids):
        rounds.append((len(prompt) + len(tokens), len(group)))
        tokens += group
    return Answer(tokens, rounds, perf_counter() - start)


def _until_end(
    groups: Iterator[tuple[int, ...]], limit: int, eos_ids: frozenset[int]
) -> Iterator[tuple[int, ...]]:
    said = 0
    for group in groups:
        end = next((i + 1 for i, token in enumerate(group) if token in eos_ids), len(group))
        group = group[: min(end, limit - said)]
        said += len(group)
        yield group
        if said == limit or group[-1] in eos_ids:
            return
