"""One request from prompt to `Finished`: read what the timeline lacks, then decode until something ends it."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import mlx.core as mx

from mlx_qnext.generate.answer import Answer
from mlx_qnext.generate.decode import decode
from mlx_qnext.generate.events import Event, Finished, FinishReason, Notice, PrefillProgress, TokensEmitted
from mlx_qnext.generate.prefill import prefill
from mlx_qnext.generate.sampler import Sampler
from mlx_qnext.generate.stopwatch import Stopwatch
from mlx_qnext.generate.timeline import Timeline
from mlx_qnext.model.qwen3_next import Model
from mlx_qnext.tokenizer import Prompt


@dataclass
class Run:
    """Everything one request needs; `events` runs it."""

    model: Model
    timeline: Timeline
    prompt: Prompt
    answer: Answer
    sampler: Sampler
    cancelled: threading.Event
    watch: Stopwatch
    notices: tuple[str, ...] = ()
    cached_tokens: int = 0

    def events(self) -> Iterator[Event]:
        """The request's events; between any two of them the timeline holds exactly what the model has run."""
        yield from (Notice(message) for message in self.notices)
        hidden = yield from self._read()
        if hidden is not None:
            yield from self._say(hidden)
        rest = self.answer.finish()
        if rest:
            yield TokensEmitted((), tuple(rest))
        yield self._finished()

    def _read(self) -> Generator[Event, None, mx.array | None]:
        """Bring the prompt into the cache; returns its last hidden state, or `None` when cancelled on the way."""
        tokens = self.prompt.token_ids
        self.cached_tokens = self.timeline.reuse(tokens)
        self.watch.prefill_starts()
        yield PrefillProgress(self.cached_tokens, len(tokens), self.cached_tokens)
        hidden: mx.array | None = None
        for last in prefill(self.model, self.timeline, tokens, self.prompt.history_tokens):
            hidden = last
            self.watch.chunk_read()
            yield PrefillProgress(self.timeline.cache.position, len(tokens), self.cached_tokens)
            if self.cancelled.is_set():
                return None
        return hidden

    def _say(self, hidden: mx.array) -> Iterator[Event]:
        """Decode until the answer ends, is full, or is cancelled."""
        for group in decode(self.model, self.timeline, hidden, self.sampler):
            self.watch.token_came()
            segments = [segment for token in group for segment in self.answer.push(token)]
            yield TokensEmitted(group, tuple(segments))
            if self.answer.ended or self.answer.full or self.cancelled.is_set():
                break
        self.timeline.remember()

    def _finished(self) -> Finished:
        answer = self.answer
        reason: FinishReason = "stop" if answer.ended else "length" if answer.full else "cancelled"
        return Finished(
            reason=reason,
            text=answer.text("answer"),
            thinking=answer.text("thinking"),
            tool_calls=answer.texts("tool_call"),
            stats=self.watch.stats(len(self.prompt.token_ids), self.cached_tokens, answer.token_count),
        )
