"""Reads a prompt into the cache: in chunks, or layer by layer where experts have to be fetched."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import mlx.core as mx

from mlx_qnext.cache.hybrid import States
from mlx_qnext.experts.workspace import LARGEST_CHUNK_TOKENS
from mlx_qnext.generate.checkpoints import Marks
from mlx_qnext.generate.drafter import Drafter
from mlx_qnext.generate.timeline import Timeline
from mlx_qnext.model.qwen3_next import Model
from mlx_qnext.model.sweep import Swept, sweep
from mlx_qnext.ops.device import Backend, backend

DEFAULT_SPAN_TOKENS = 8192

# In a long prompt a position is remembered every so many tokens, where a chunk ends.
CHECKPOINT_EVERY_TOKENS = 2048


@dataclass(frozen=True)
class Progress:
    """How far the prompt has been read.

    Attributes:
        done_tokens: read so far; while a span goes through the layers, in proportion to those it has passed.
        hidden: the last token's state `[1, 1, hidden]`, where the timeline holds exactly `done_tokens`; `None` within a span.
    """

    done_tokens: int
    hidden: mx.array | None


def prefill(
    model: Model,
    timeline: Timeline,
    prompt: Sequence[int],
    *,
    marks: Marks = Marks(),  # noqa: B008
    drafter: Drafter | None = None,
    chunk_tokens: int | None = None,
    span_tokens: int = DEFAULT_SPAN_TOKENS,
    layerwise: bool = False,
) -> Generator[Progress, None, None]:
    """Run the tokens of `prompt` that the timeline lacks.

    Positions are remembered at the marks, in long stretches between, and at the end. After every step with a hidden state the
    cache is evaluated, the drafter's part of it too, and the timeline holds exactly what the model has run; so it does where
    the caller leaves in between.

    Args:
        chunk_tokens: how many tokens may go through a mixer together, which is the grain of progress and cancellation too;
            `None` is what suits the device.
        span_tokens: how many tokens may go through the layers together where experts have to be fetched.
        layerwise: go through the layers one by one even where they need not: then it can be left after each of them, as if the
            span had not been begun.

    Raises:
        CheckpointError: an expert cannot be read.
    """
    chunk_tokens = chunk_tokens or LARGEST_CHUNK_TOKENS[backend()]
    timeline.checkpoints.marks = marks
    return _Prefill(model, timeline, prompt, marks, chunk_tokens, span_tokens, drafter, layerwise).steps()


@dataclass(frozen=True)
class _Prefill:
    """The reading of one prompt."""

    model: Model
    timeline: Timeline
    prompt: Sequence[int]
    marks: Marks
    chunk_tokens: int
    span_tokens: int
    drafter: Drafter | None
    layerwise: bool

    def steps(self) -> Generator[Progress, None, None]:
        while (start := self.timeline.cache.position) < len(self.prompt):
            # Again after the first tokens, or the cache would go on growing by a prompt's length.
            self.timeline.cache.reserve(len(self.prompt))
            if self.model.complete and not self.layerwise:
                yield self._chunk(start)
            else:
                yield from self._span(start)
        # What a prompt needed is far more than decoding will. CUDA's allocator takes minutes to get it back for the next
        # prompt.
        if backend() is not Backend.CUDA:
            mx.clear_cache()

    def _chunk(self, start: int) -> Progress:
        end = self._ends(start, min(start + self.chunk_tokens, len(self.prompt)))[0]
        states = self.model.hidden(mx.array([self.prompt[start:end]]), self.timeline.cache.layers)
        return self._take(states, end)

    def _span(self, start: int) -> Generator[Progress, None, None]:
        """Layer by layer over as many tokens as fit."""
        stop = min(start + self.span_tokens, len(self.prompt))
        before = self.timeline.cache.snapshot()
        ends = self._ends(start, stop)
        marks = self._remembered(ends)
        try:
            swept = yield from self._sweep(start, ends, marks)
        except BaseException:
            self.timeline.cache.rewind(before)
            raise
        progress = Progress(start, None)
        for begin, end in pairwise([start, *marks, *({stop} - set(marks))]):
            states = swept.hidden[:, begin - start : end - start]
            progress = self._take(states, end, swept.marked.get(end - start))
        yield progress

    def _sweep(self, start: int, ends: list[int], marks: list[int]) -> Generator[Progress, None, Swept]:
        tokens, layers = self.prompt[start : ends[-1]], self.timeline.cache.layers
        at = [end - start for end in ends]
        sweeping = sweep(self.model.model, tokens, layers, at, [mark - start for mark in marks])
        try:
            while True:
                done = next(sweeping)
                yield Progress(start + len(tokens) * done // (len(layers) + 1), None)
        except StopIteration as finished:
            return finished.value

    def _take(self, states: mx.array, end: int, recurrent: States | None = None) -> Progress:
        """Record that the model has run the prompt up to `end`, whose last tokens' states these are.

        `recurrent` are the recurrent layers' states there, where they have already gone on.
        """
        last = states[:, -1:]
        self.timeline.append(self.prompt[self.timeline.cache.position : end])
        if self.drafter is not None:
            self.drafter.follow(states)
            self.drafter.catch_up()
        mx.eval(last, self.timeline.cache.arrays())
        if self._remembered([end]):
            # Contiguous, so that it does not keep a chunk's states alive.
            hidden = mx.contiguous(last) if end == len(self.prompt) else None
            self.timeline.remember(recurrent, hidden)
        return Progress(end, last)

    def _ends(self, start: int, stop: int) -> list[int]:
        """Where chunks end; each mark begins a new one."""
        ends = list[int]()
        while start < stop:
            end = min(start + self.chunk_tokens, stop)
            start = min(mark for mark in (*self.marks, end) if start < mark <= end)
            ends.append(start)
        return ends

    def _remembered(self, ends: list[int]) -> list[int]:
        """Those of the ends that are worth it."""
        last, found = self.timeline.checkpoints.last.position, list[int]()
        for end in ends:
            if end in (*self.marks, len(self.prompt)) or end - last >= CHECKPOINT_EVERY_TOKENS:
                found.append(end)
                last = end
        return found
