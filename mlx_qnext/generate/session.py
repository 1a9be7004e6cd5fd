"""One mutable timeline over an engine: each request continues it as far as the new prompt shares its past."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlx_qnext.cache.frozen import Frozen
from mlx_qnext.cache.head import HeadCache
from mlx_qnext.cache.hybrid import HybridCache
from mlx_qnext.cache.shapes import CacheShapes
from mlx_qnext.errors import TokenizerError, UsageError
from mlx_qnext.experts.remembered import WORTH_REMEMBERING_BYTES
from mlx_qnext.generate.answer import Answer
from mlx_qnext.generate.context import ContextWindow
from mlx_qnext.generate.depth import DraftDepth
from mlx_qnext.generate.drafter import Drafter
from mlx_qnext.generate.events import Event
from mlx_qnext.generate.experts_in_use import ExpertsInUse
from mlx_qnext.generate.forecasts import Outlook
from mlx_qnext.generate.notices import context_full, lasting, limits_met
from mlx_qnext.generate.reading_ahead import ReadingAhead
from mlx_qnext.generate.request import GenerationConfig
from mlx_qnext.generate.run import Run
from mlx_qnext.generate.sampler import Sampler
from mlx_qnext.generate.sampling import Sampling
from mlx_qnext.generate.speculative import Speculation
from mlx_qnext.generate.stopwatch import Stopwatch
from mlx_qnext.generate.timeline import Timeline
from mlx_qnext.transcript import Transcript

if TYPE_CHECKING:
    from mlx_qnext.generate.engine import Engine

Message = Mapping[str, Any]


class Session:
    """A conversation's memory. One request runs at a time; `cancel` may come from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._timeline = Timeline(_new_cache(engine), engine.plan.checkpoints)
        self._window = ContextWindow(engine.plan.context_tokens)
        self._drafts = False
        self._depth = DraftDepth()
        self._cancelled = threading.Event()
        self._told: set[str] = set()

    def generate(
        self,
        messages: Sequence[Message],
        config: GenerationConfig | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Iterator[Event]:
        """Answer the messages: events, the last of them `Finished`.

        Arguments are checked here; the work happens as the iterator is read. Leaving it early, or `cancel`, leaves a session
        that holds what was read and said so far, and that goes on from there.

        Raises:
            UsageError: no messages. TokenizerError: the template fails on them.
            ContextLengthError: the prompt leaves no room for an answer.
        """
        watch = Stopwatch()
        config = config or GenerationConfig()
        if not messages:
            raise UsageError("There is nothing to answer: give at least one message.")
        tokenizer = self._engine.tokenizer
        prompt, left_out = self._window.fit(
            messages, lambda kept: tokenizer.prompt(kept, tools, config.thinking), config.when_full
        )
        if not prompt.token_ids:
            raise TokenizerError(
                "The chat template makes nothing of these messages: use the model's own template."
            )
        room = self._window.limit - len(prompt.token_ids)
        self._cancelled.clear()
        asked = config.max_tokens or room
        answer = Answer(
            tokenizer,
            Transcript(prompt.opens_thinking, bool(tools)),
            config.stop,
            min(room, asked),
            config.thinking_budget,
        )
        sampling = Sampling.settle(config, self._engine.defaults)
        sampler = Sampler(sampling, self._engine.config.vocab_size, prompt.token_ids, config.seed)
        speculation = self._speculation(sampler, config.draft)
        self._drafts = speculation is not None
        return Run(
            self._engine.model,
            self._timeline,
            prompt,
            answer,
            sampler,
            self._cancelled,
            watch,
            self._engine.plan,
            ExpertsInUse(self._engine.store, self._engine.plan, self._engine.model),
            speculation,
            self._outlook(),
            self._notices(asked, room, left_out, config.draft),
            context_full(self._window.limit) if asked >= room else None,
        ).events()

    def cancel(self) -> None:
        """Make the running request end after the step at hand, with reason `cancelled`."""
        self._cancelled.set()

    def read_ahead(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
        cancelled: threading.Event | None = None,
    ) -> int:
        """Read what the next prompt will begin with, if the user goes on from these messages, whose last is the reply.

        That is the reply as the template shows it when it is past. Runs in any thread while no request does, and ends soon
        after `cancelled` is set; what it has read by then stays. Returns how many tokens it has read: none where tools were
        called, because their results come next.

        Raises:
            CheckpointError: an expert cannot be read. TokenizerError: the template fails on the messages.
        """
        if not messages or messages[-1].get("tool_calls"):
            return 0
        kept = self._window.kept(messages)
        tokens = self._engine.tokenizer.common_start(kept, tools, thinking)
        if len(tokens) >= self._window.limit:
            return 0
        reading = ReadingAhead(self._engine.model, self._timeline, self._engine.plan, self._drafter())
        return reading.read(tokens, cancelled or threading.Event())

    def fork(self) -> Session:
        """A session that remembers the same; what either of the two is asked from now on, the other does not know."""
        forked = Session(self._engine)
        forked._timeline = self._timeline.fork()
        forked._window = replace(self._window)
        forked._drafts = self._drafts
        return forked

    @property
    def tokens(self) -> tuple[int, ...]:
        """What the cache holds."""
        return tuple(self._timeline.tokens)

    def freeze(self) -> Frozen:
        """What is remembered, as it can be written to a disk; arrays are computed when they are first looked at."""
        frozen = self._timeline.freeze()
        left_out = [dict(message) for message in self._window.left_out]
        return replace(frozen, facts={**frozen.facts, "left_out": left_out})

    def thaw(self, frozen: Frozen) -> None:
        """Remember what another session of the same model did, and nothing else.

        Raises:
            ValueError: it is not what `freeze` gives for this model.
        """
        engine = self._engine
        shapes = CacheShapes.of(engine.config, engine.plan.kv_bits)
        self._timeline = Timeline.thaw(frozen, _new_cache(engine), shapes, engine.plan.checkpoints)
        self._window = replace(self._window, left_out=list(frozen.facts.get("left_out", ())))

    def _drafter(self) -> Drafter | None:
        """Follows the timeline where the last request drafted."""
        return self._new_drafter() if self._drafts else None

    def _new_drafter(self) -> Drafter | None:
        model, memory = self._engine.model, self._timeline.cache.head
        if model.mtp is None or memory is None:
            return None
        return Drafter(model, model.mtp, self._timeline, memory)

    def _speculation(self, sampler: Sampler, depth: int | None) -> Speculation | None:
        drafter = None if depth == 0 else self._new_drafter()
        if drafter is None:
            return None
        self._depth.begin(depth)
        return Speculation(self._engine.model, self._timeline, sampler, drafter, self._depth)

    def _outlook(self) -> Outlook | None:
        """For models that are worth a file in the user's cache."""
        engine = self._engine
        worth = engine.store.total_bytes >= WORTH_REMEMBERING_BYTES
        return Outlook(engine.key, engine.plan) if worth else None

    def _notices(self, asked: int, room: int, left_out: int, depth: int | None) -> tuple[str, ...]:
        new = [notice for notice in lasting(self._engine, depth) if notice not in self._told]
        self._told.update(new)
        return (*limits_met(self._window.limit, left_out, room, asked), *new)


def _new_cache(engine: Engine) -> HybridCache:
    """An empty cache of one session."""
    mtp, kv_bits = engine.model.mtp, engine.plan.kv_bits
    return HybridCache(engine.model.make_cache(kv_bits), None if mtp is None else HeadCache(mtp.make_cache()))
