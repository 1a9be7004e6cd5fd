"""One request from prompt to `Finished`: read what the timeline lacks, then decode until something ends it."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

import mlx.core as mx

from mlx_qnext.experts.plan import MemoryPlan
from mlx_qnext.generate.answer import Answer
from mlx_qnext.generate.checkpoints import Marks
from mlx_qnext.generate.decode import decode
from mlx_qnext.generate.events import (
    Event,
    Finished,
    FinishReason,
    GenerationStats,
    Notice,
    PrefillProgress,
    TokensEmitted,
)
from mlx_qnext.generate.experts_in_use import ExpertsInUse
from mlx_qnext.generate.forecasts import Outlook
from mlx_qnext.generate.prefill import prefill
from mlx_qnext.generate.sampler import Sampler
from mlx_qnext.generate.speculative import Speculation
from mlx_qnext.generate.stopwatch import Stopwatch
from mlx_qnext.generate.timeline import Timeline
from mlx_qnext.model.qwen3_next import Model
from mlx_qnext.tokenizer import Prompt
from mlx_qnext.transcript import Segment


@dataclass
class Run:
    """Everything one request needs; `events` runs it.

    Attributes:
        said: the answer's tokens so far.
        notices: what to say first. when_full: what to say where the answer ends for want of room, if that is the context's.
    """

    model: Model
    timeline: Timeline
    prompt: Prompt
    answer: Answer
    sampler: Sampler
    cancelled: threading.Event
    watch: Stopwatch
    plan: MemoryPlan
    experts: ExpertsInUse
    speculation: Speculation | None = None
    outlook: Outlook | None = None
    notices: tuple[str, ...] = ()
    when_full: str | None = None
    cached_tokens: int = 0
    said: list[int] = field(default_factory=list)

    def events(self) -> Iterator[Event]:
        """The request's events; between any two of them the timeline holds exactly what the model has run."""
        yield from (Notice(message) for message in self.notices)
        try:
            hidden = yield from self._read()
            if hidden is not None:
                self.experts.decoding_begins()
                yield from self._say(hidden)
        except (Exception, KeyboardInterrupt):
            self.timeline.restore()
            raise
        rest = self.answer.finish()
        if rest:
            yield TokensEmitted((), tuple(rest))
        finished = self._finished()
        if finished.reason == "length" and self.when_full is not None:
            yield Notice(self.when_full)
        yield finished

    def _read(self) -> Generator[Event, None, mx.array | None]:
        """Bring the prompt into the cache; returns its last hidden state, or `None` when cancelled on the way."""
        tokens = self.prompt.token_ids
        drafter = self.speculation.drafter if self.speculation is not None else None
        self.cached_tokens = self._reuse(drafting=drafter is not None)
        self.watch.prefill_starts()
        yield PrefillProgress(self.cached_tokens, len(tokens), self.cached_tokens)
        hidden = self.timeline.hidden
        steps = prefill(
            self.model,
            self.timeline,
            tokens,
            marks=Marks(self.prompt.system_tokens, self.prompt.lasting_tokens),
            drafter=drafter,
            chunk_tokens=self.plan.chunk_tokens,
            span_tokens=self.plan.span_tokens,
        )
        with closing(steps), self.experts.store.undisturbed():
            for step in steps:
                hidden = step.hidden
                self.watch.chunk_read()
                yield PrefillProgress(step.done_tokens, len(tokens), self.cached_tokens)
                yield from self._housekeeping()
                if self.cancelled.is_set():
                    return None
        return hidden

    def _reuse(self, *, drafting: bool) -> int:
        """Go back to what the prompt shares; where that is all of it, its last token's state has to be known."""
        tokens = self.prompt.token_ids
        held = self.timeline.reuse(tokens, drafting=drafting)
        if held == len(tokens) and self.timeline.hidden is None:
            held = self.timeline.reuse(tokens[:-1], drafting=drafting)
        return held

    def _say(self, hidden: mx.array) -> Iterator[Event]:
        """Go on from the prompt's last state until the answer ends, is full, or is cancelled."""
        while not self._is_over:
            if self.answer.overthinks:
                hidden = yield from self._close_thought()
            else:
                yield from self._decode(hidden)
        self.timeline.remember()

    def _decode(self, hidden: mx.array) -> Iterator[Event]:
        """Decode until all is said, or a thought has used up its budget."""
        for group in self._groups(hidden):
            self.watch.token_came()
            taken, segments = self._take(group)
            if taken < len(group):
                self.timeline.keep(taken)
            self.said += group[:taken]
            yield TokensEmitted(group[:taken], tuple(segments))
            yield from self._housekeeping()
            if self._is_over or self.answer.overthinks:
                return

    @property
    def _is_over(self) -> bool:
        return self.answer.ended or self.answer.full or self.cancelled.is_set()

    def _close_thought(self) -> Generator[Event, None, mx.array]:
        """Put the end of the thought on the timeline; returns its last token's state."""
        thought_tokens = self.answer.thought_tokens
        segments = self.answer.close_thought()
        self.said += self.answer.closing_tokens
        # A token that was told before it was run is not on the timeline yet.
        tokens = self.said[len(self.timeline.tokens) - len(self.prompt.token_ids) :]
        states = self.model.hidden(mx.array([tokens]), self.timeline.cache.layers)
        self.timeline.append(tokens)
        if self.speculation is not None:
            self.speculation.drafter.follow(states)
        # What was drawn to follow the open thought was not said.
        self.sampler.answer_holds(self.said)
        self.watch.token_came()
        yield TokensEmitted(self.answer.closing_tokens, tuple(segments))
        yield Notice(_closed_after(thought_tokens))
        yield from self._housekeeping()
        return states[:, -1:]

    def _housekeeping(self) -> Iterator[Event]:
        """Between two steps: what was read, and whether memory had to be given back."""
        yield from (event for event in (self.experts.activity(), self.experts.relieve()) if event is not None)

    def _groups(self, hidden: mx.array) -> Iterator[tuple[int, ...]]:
        if self.speculation is not None:
            return self.speculation.groups(hidden)
        return decode(self.model, self.timeline, hidden, self.sampler)

    def _take(self, group: tuple[int, ...]) -> tuple[int, list[Segment]]:
        """How many of the tokens the answer takes before it ends, is full or overthinks, and the text that became certain."""
        segments: list[Segment] = []
        for taken, token in enumerate(group, 1):
            segments += self.answer.push(token)
            if self.answer.ended or self.answer.full or self.answer.overthinks:
                return taken, segments
        return len(group), segments

    def _finished(self) -> Finished:
        answer = self.answer
        reason: FinishReason = "stop" if answer.ended else "length" if answer.full else "cancelled"
        return Finished(
            reason=reason,
            text=answer.text("answer"),
            thinking=answer.text("thinking"),
            tool_calls=answer.texts("tool_call"),
            stats=self._stats(),
            thought_end=answer.thought_end,
        )

    def _stats(self) -> GenerationStats:
        stats = self.watch.stats(len(self.prompt.token_ids), self.cached_tokens, self.answer.token_count)
        stats = replace(stats, experts=self.experts.stats(), memory=self.experts.memory())
        if self.speculation is not None:
            stats = replace(stats, mtp=self.speculation.stats(stats.decode_tps))
        if self.outlook is None:
            return stats
        return self.outlook.beside(stats, self.experts.decoding_hit_rate)


def _closed_after(tokens: int) -> str:
    if not tokens:
        return "The thought was closed at once."
    return f"The thought was closed after {tokens} token{'s' if tokens > 1 else ''}."
