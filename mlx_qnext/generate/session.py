"""One mutable timeline over an engine: each request continues it as far as the new prompt shares its past."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlx_qnext.cache.head import HeadCache
from mlx_qnext.cache.hybrid import HybridCache
from mlx_qnext.errors import ContextLengthError, TokenizerError, UsageError
from mlx_qnext.experts.remembered import WORTH_REMEMBERING_BYTES
from mlx_qnext.generate.answer import Answer
from mlx_qnext.generate.depth import DraftDepth
from mlx_qnext.generate.drafter import Drafter
from mlx_qnext.generate.events import Event
from mlx_qnext.generate.experts_in_use import ExpertsInUse
from mlx_qnext.generate.forecasts import Outlook
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
        mtp = engine.model.mtp
        self._timeline = Timeline(
            HybridCache(engine.model.make_cache(), None if mtp is None else HeadCache(mtp.make_cache()))
        )
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
        prompt = tokenizer.prompt(messages, tools, config.thinking)
        if not prompt.token_ids:
            raise TokenizerError(
                "The chat template makes nothing of these messages: use the model's own template."
            )
        room = self._engine.config.max_position_embeddings - len(prompt.token_ids)
        if room < 1:
            raise ContextLengthError(
                f"The prompt has {len(prompt.token_ids)} tokens and the model's context holds "
                f"{self._engine.config.max_position_embeddings}: shorten the prompt by at least {1 - room}."
            )
        self._cancelled.clear()
        asked = config.max_tokens or room
        answer = Answer(
            tokenizer, Transcript(prompt.opens_thinking, bool(tools)), config.stop, min(room, asked)
        )
        sampling = Sampling.settle(config, self._engine.defaults)
        sampler = Sampler(sampling, self._engine.config.vocab_size, prompt.token_ids, config.seed)
        return Run(
            self._engine.model,
            self._timeline,
            prompt,
            answer,
            sampler,
            self._cancelled,
            watch,
            self._engine.plan.span_tokens,
            ExpertsInUse(self._engine.store, self._engine.plan, self._engine.model),
            self._speculation(sampler, config.draft),
            self._outlook(),
            self._notices(asked, room, config.draft),
        ).events()

    def cancel(self) -> None:
        """Make the running request end after the step at hand, with reason `cancelled`."""
        self._cancelled.set()

    def _speculation(self, sampler: Sampler, depth: int | None) -> Speculation | None:
        model, memory = self._engine.model, self._timeline.cache.head
        if depth == 0 or model.mtp is None or memory is None:
            return None
        self._depth.begin(depth)
        drafter = Drafter(model, model.mtp, self._timeline, memory)
        return Speculation(model, self._timeline, sampler, drafter, self._depth)

    def _outlook(self) -> Outlook | None:
        """For models that are worth a file in the user's cache."""
        engine = self._engine
        worth = engine.store.total_bytes >= WORTH_REMEMBERING_BYTES
        return Outlook(engine.key, engine.plan) if worth else None

    def _notices(self, asked: int, room: int, depth: int | None) -> tuple[str, ...]:
        notices: list[str] = []
        if asked > room:
            notices.append(f"The context has room for {room} more tokens, fewer than the {asked} asked for.")
        new = [notice for notice in self._lasting_notices(depth) if notice not in self._told]
        self._told.update(new)
        return (*notices, *new)

    def _lasting_notices(self, depth: int | None) -> Iterator[str]:
        """What holds for every request of this session, and is said once."""
        plan = self._engine.plan
        if not plan.complete:
            yield (
                f"{plan.share:.0%} of the experts find room in {plan.total_bytes / 1e9:.1f} GB; the others are read "
                "when they are needed, which takes its time."
            )
        if self._engine.store.pools and not self._engine.store.in_place:
            yield (
                "MLX does not see here what is written into its memory, so every expert that is read is copied once "
                "more, and none is read ahead."
            )
        if self._engine.model.mtp is None and depth != 0:
            yield (
                "This checkpoint has no MTP head, so nothing is drafted: qnext quantize MODEL DEST --mtp-from SOURCE "
                "makes one that has."
            )
