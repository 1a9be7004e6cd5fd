"""Many independent requests, answered with as little work as possible: prompts share what they begin with, and answers are
decoded together.

One timeline reads all prompts. With a concurrency of 1 it decodes each answer too, with drafts. With more, each sequence goes
on from a fork of it, beside the others. Every answer is what the request alone would get: greedy tokens and seeded draws depend
on nothing beside it, as far as rounding goes, which is not the same for one row as for several.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import mlx.core as mx

from mlx_qnext.cache.head import HeadCache
from mlx_qnext.cache.hybrid import HybridCache
from mlx_qnext.errors import UsageError
from mlx_qnext.generate.batch_memory import READING_CHECKPOINTS, BatchMemory
from mlx_qnext.generate.batch_order import in_reading_order
from mlx_qnext.generate.batch_prompt import Prepared
from mlx_qnext.generate.batch_request import BatchRequest, BatchResult
from mlx_qnext.generate.checkpoints import Marks
from mlx_qnext.generate.depth import DraftDepth
from mlx_qnext.generate.drafter import Drafter
from mlx_qnext.generate.events import Finished, Notice, TokensEmitted
from mlx_qnext.generate.experts_in_use import ExpertsInUse
from mlx_qnext.generate.notices import lasting
from mlx_qnext.generate.prefill import prefill
from mlx_qnext.generate.run import Run
from mlx_qnext.generate.sampler import Sampler
from mlx_qnext.generate.speculative import Speculation
from mlx_qnext.generate.stopwatch import Stopwatch
from mlx_qnext.generate.timeline import Timeline
from mlx_qnext.generate.together import BatchSequence, Together

if TYPE_CHECKING:
    from mlx_qnext.generate.engine import Engine

BatchEvent: TypeAlias = BatchResult | Notice


def run_batch(
    engine: Engine,
    requests: Iterable[tuple[int, BatchRequest]],
    concurrency: int = 1,
) -> Iterator[BatchEvent]:
    """Answer numbered requests, up to `concurrency` at a time: a result for each, in the order in which they finish.

    Fewer run at a time while memory has no room for more. Requests are taken some at a time, as their turn comes.

    Raises:
        UsageError: there is no such concurrency. CheckpointError: an expert cannot be read.
    """
    if concurrency < 1:
        raise UsageError(f"The concurrency is {concurrency}, expected at least 1.")
    return _Batch(engine, concurrency).events(in_reading_order(engine, requests))


class _Batch:
    """One batch while it runs."""

    def __init__(self, engine: Engine, concurrency: int) -> None:
        self._engine, self._concurrency = engine, concurrency
        mtp = engine.model.mtp if concurrency == 1 else None
        self._head = None if mtp is None else HeadCache(mtp.make_cache())
        cache = HybridCache(engine.model.make_cache(engine.plan.kv_bits), self._head)
        self._timeline = Timeline(cache, READING_CHECKPOINTS)
        self._longest = 0
        self._memory = BatchMemory.of(engine.plan)
        self._experts = self._new_experts()
        self._together = Together(engine.model)
        self._parked: deque[BatchSequence] = deque()
        self._depth = DraftDepth()
        self._is_scarce = self._told_of_memory = False
        self._told: set[str] = set()

    def events(self, ordered: Iterator[Prepared | BatchResult]) -> Iterator[BatchEvent]:
        """Everything that comes of the requests."""
        waiting: Prepared | BatchResult | None = next(ordered, None)
        while True:
            if isinstance(waiting, BatchResult):
                yield waiting
                waiting = next(ordered, None)
            elif self._parked and self._has_room(len(self._parked[0].tokens)):
                yield from self._begin(self._parked.popleft())
            elif waiting is not None and not self._parked and self._has_room(len(waiting.prompt.token_ids)):
                yield from self._begin(self._new_sequence(waiting))
                waiting = next(ordered, None)
            elif self._together.sequences:
                yield from self._go_on()
            elif self._parked:
                yield from self._begin(self._parked.popleft())
            elif waiting is not None:
                yield from self._alone(waiting)
                waiting = next(ordered, None)
            else:
                return

    def _has_room(self, tokens: int) -> bool:
        """Whether one more sequence of so many tokens can decode beside those that do."""
        held = self._lengths()
        if self._concurrency == 1 or len(held) >= self._concurrency:
            return False
        holds = self._memory.holds(max(self._longest, tokens), [*held, tokens])
        self._is_scarce |= not holds
        return holds

    def _lengths(self) -> list[int]:
        return [len(sequence.tokens) for sequence in self._together.sequences]

    def _go_on(self) -> Iterator[BatchEvent]:
        """A step of all sequences, after which those that there is no room for any more wait."""
        yield from self._scarcity()
        for sequence in self._together.step():
            yield sequence.prepared.result(self._finished(sequence))
        notice = self._experts.relieve()
        if notice is not None:
            yield notice
        while len(self._together.sequences) > 1 and not self._memory.holds(self._longest, self._lengths()):
            self._park()

    def _park(self) -> None:
        """Let the one that joined last wait: what it has said is read again with its prompt, once there is room."""
        last = self._together.sequences[-1]
        self._together.leave(last)
        self._parked.append(last)
        self._is_scarce = True

    def _scarcity(self) -> Iterator[Notice]:
        """That memory lets others wait, once it does."""
        if self._is_scarce and not self._told_of_memory:
            self._told_of_memory = True
            count = max(1, len(self._together.sequences))
            answers = "1 answer" if count == 1 else f"{count} answers"
            yield Notice(
                f"Memory has room for {answers} of this length at a time, so others wait: give more with --memory, or set "
                "aside more with --context."
            )

    def _begin(self, sequence: BatchSequence) -> Generator[BatchEvent, None, None]:
        """Read what the sequence holds, and let it decode beside the others."""
        yield from self._lasting_notices(draft=0)
        starts = sequence.token is None
        hidden = yield from self._read(sequence, starts)
        cache = self._timeline.cache.fork()
        if starts:
            self._together.begin(sequence, cache, hidden)
        else:
            self._together.join(sequence, cache)

    def _read(self, sequence: BatchSequence, starts: bool) -> Generator[BatchEvent, None, mx.array]:
        """The last hidden state `[1, 1, hidden]`, with everything on the timeline."""
        engine, tokens = self._engine, sequence.tokens
        self._longest = max(self._longest, len(tokens))
        reused = self._timeline.reuse(tokens[:-1])
        if starts:
            sequence.cached_tokens = reused
            sequence.watch.prefill_starts()
        prompt = sequence.prepared.prompt
        steps = prefill(
            engine.model,
            self._timeline,
            tokens,
            marks=Marks(prompt.system_tokens, prompt.lasting_tokens),
            chunk_tokens=engine.plan.chunk_tokens,
            span_tokens=engine.plan.span_tokens,
        )
        hidden: mx.array | None = None
        with closing(steps), engine.store.undisturbed():
            for step in steps:
                hidden = step.hidden
                if starts:
                    sequence.watch.chunk_read()
                notice = self._experts.relieve()
                if notice is not None:
                    yield notice
        assert hidden is not None
        return hidden

    def _alone(self, prepared: Prepared) -> Iterator[BatchEvent]:
        """Answer one on the timeline that reads, while no other is there."""
        yield from self._scarcity()
        engine, answer = self._engine, prepared.answer(self._engine)
        sampler = prepared.sampler(engine)
        yield from self._lasting_notices(prepared.request.config.draft if self._concurrency == 1 else 0)
        run = Run(
            engine.model,
            self._timeline,
            prepared.prompt,
            answer,
            sampler,
            threading.Event(),
            Stopwatch(),
            engine.plan,
            self._new_experts(),
            self._speculation(prepared, sampler),
        )
        is_closing = False
        for event in run.events():
            # Of a thought that is closed by force the answer tells.
            if isinstance(event, Notice) and not is_closing:
                yield event
            elif isinstance(event, Finished):
                yield prepared.result(event)
            is_closing = isinstance(event, TokensEmitted) and event.token_ids == answer.closing_tokens
        self._longest = max(self._longest, len(self._timeline.tokens))

    def _lasting_notices(self, draft: int | None) -> Iterator[Notice]:
        """What holds for all requests, once."""
        for message in lasting(self._engine, draft):
            if message not in self._told:
                self._told.add(message)
                yield Notice(message)

    def _speculation(self, prepared: Prepared, sampler: Sampler) -> Speculation | None:
        model = self._engine.model
        if self._head is None or model.mtp is None or not prepared.drafts:
            return None
        self._depth.begin(prepared.request.config.draft)
        drafter = Drafter(model, model.mtp, self._timeline, self._head)
        return Speculation(model, self._timeline, sampler, drafter, self._depth)

    def _new_sequence(self, prepared: Prepared) -> BatchSequence:
        return BatchSequence(
            prepared,
            prepared.answer(self._engine),
            prepared.sampler(self._engine),
            Stopwatch(),
            self._new_experts(),
            list(prepared.prompt.token_ids),
        )

    def _new_experts(self) -> ExpertsInUse:
        return ExpertsInUse(self._engine.store, self._engine.plan, self._engine.model)

    def _finished(self, sequence: BatchSequence) -> Finished:
        answer, prompt = sequence.answer, sequence.prepared.prompt
        answer.finish()
        stats = sequence.watch.stats(len(prompt.token_ids), sequence.cached_tokens, answer.token_count)
        return Finished(
            reason="stop" if answer.ended else "length",
            text=answer.text("answer"),
            thinking=answer.text("thinking"),
            tool_calls=answer.texts("tool_call"),
            stats=replace(stats, experts=sequence.experts.stats(), memory=sequence.experts.memory()),
            thought_end=answer.thought_end,
        )
