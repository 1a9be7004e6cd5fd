"""Reads a prompt into the cache: in chunks, or layer by layer where experts have to be fetched."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_qnext.generate.drafter import Drafter
from mlx_qnext.generate.timeline import Timeline
from mlx_qnext.model.qwen3_next import Model
from mlx_qnext.model.sweep import Swept, sweep
from mlx_qnext.ops.device import Backend, backend

# A chunk bounds the workspace and is the grain of progress and cancellation. A CPU gains nothing from larger ones.
_CHUNK_TOKENS = {Backend.CPU: 256, Backend.METAL: 2048, Backend.CUDA: 2048}

DEFAULT_SPAN_TOKENS = 8192


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
    remember_at: int,
    drafter: Drafter | None = None,
    span_tokens: int = DEFAULT_SPAN_TOKENS,
) -> Generator[Progress, None, None]:
    """Run the tokens of `prompt` that the timeline lacks.

    A snapshot is remembered at position `remember_at` and at the end. After every step with a hidden state the cache is
    evaluated, the drafter's part of it too, and the timeline holds exactly what the model has run; so it does where the
    caller leaves in between.

    Args:
        span_tokens: how many tokens may go through the layers together where experts have to be fetched.

    Raises:
        CheckpointError: an expert cannot be read.
    """
    return _Prefill(model, timeline, prompt, remember_at, span_tokens, drafter).steps()


@dataclass(frozen=True)
class _Prefill:
    """The reading of one prompt."""

    model: Model
    timeline: Timeline
    prompt: Sequence[int]
    remember_at: int
    span_tokens: int
    drafter: Drafter | None

    def steps(self) -> Generator[Progress, None, None]:
        while (start := self.timeline.cache.position) < len(self.prompt):
            if self.model.complete:
                yield self._chunk(start)
            else:
                yield from self._span(start)
        # What a prompt needed is far more than decoding will. CUDA's allocator takes minutes to get it back for the next
        # prompt.
        if backend() is not Backend.CUDA:
            mx.clear_cache()

    def _chunk(self, start: int) -> Progress:
        end = self._ends(start, min(start + _CHUNK_TOKENS[backend()], len(self.prompt)))[0]
        states = self.model.hidden(mx.array([self.prompt[start:end]]), self.timeline.cache.layers)
        return self._take(states, end)

    def _span(self, start: int) -> Generator[Progress, None, None]:
        """Layer by layer over as many tokens as fit."""
        stop = min(start + self.span_tokens, len(self.prompt))
        before = self.timeline.cache.snapshot()
        try:
            swept = yield from self._sweep(start, stop)
        except BaseException:
            self.timeline.cache.rewind(before)
            raise
        if start < self.remember_at < stop:
            self._take(swept.hidden[:, : self.remember_at - start], self.remember_at, swept)
            start = self.remember_at
        yield self._take(swept.hidden[:, start - stop :], stop)

    def _sweep(self, start: int, stop: int) -> Generator[Progress, None, Swept]:
        ends = [end - start for end in self._ends(start, stop)]
        tokens, layers = self.prompt[start:stop], self.timeline.cache.layers
        sweeping = sweep(self.model.model, tokens, layers, ends, self.remember_at - start)
        try:
            while True:
                done = next(sweeping)
                yield Progress(start + (stop - start) * done // (len(layers) + 1), None)
        except StopIteration as finished:
            return finished.value

    def _take(self, states: mx.array, end: int, swept: Swept | None = None) -> Progress:
        """Record that the model has run the prompt up to `end`, whose last tokens' states these are."""
        last = states[:, -1:]
        self.timeline.append(self.prompt[self.timeline.cache.position : end])
        if self.drafter is not None:
            self.drafter.follow(states)
            self.drafter.catch_up()
        mx.eval(last, self.timeline.cache.arrays())
        if end in (self.remember_at, len(self.prompt)):
            self.timeline.remember(None if swept is None else swept.marked)
        return Progress(end, last)

    def _ends(self, start: int, stop: int) -> list[int]:
        """Where chunks end, of which `remember_at` begins a new one."""
        size, ends = _CHUNK_TOKENS[backend()], list[int]()
        while start < stop:
            end = min(start + size, stop)
            start = self.remember_at if start < self.remember_at < end else end
            ends.append(start)
        return ends
