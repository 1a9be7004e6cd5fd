"""Speculative decoding: a round drafts tokens, verifies them all in one pass, and commits those that stand.

It takes the place of `decode`: groups of tokens, each already in the cache when it is yielded. What comes out is what plain
decoding gives: the same tokens where it is greedy, the same distribution where it samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

import mlx.core as mx

from mlx_qnext.generate.acceptance import Verdict
from mlx_qnext.generate.decode import read, step
from mlx_qnext.generate.depth import DraftDepth
from mlx_qnext.generate.drafter import Drafter
from mlx_qnext.generate.events import MtpStats
from mlx_qnext.generate.sampler import Sampler
from mlx_qnext.generate.tally import Tally
from mlx_qnext.generate.timeline import Timeline
from mlx_qnext.model.qwen3_next import Model


@dataclass
class Speculation:
    """Everything that rounds of one answer need; `groups` runs them."""

    model: Model
    timeline: Timeline
    sampler: Sampler
    drafter: Drafter
    depth: DraftDepth
    tally: Tally = field(default_factory=Tally)
    clock: Callable[[], float] = perf_counter

    def groups(self, hidden: mx.array) -> Iterator[tuple[int, ...]]:
        """Endless groups of one to five tokens, from the prompt's last hidden state `[1, 1, hidden]` on.

        When a group is yielded its tokens are on the timeline, which can still be made to keep a part of them; a single
        token may be told before, where experts have to be fetched to run it.
        """
        token = self.sampler(self.model.logits(hidden)[0, -1])
        mx.async_eval(token)
        # As after a round: the first plain step is not timed alone either.
        drafted, start = 1, self.clock()
        while True:
            before, drafted = drafted, self.depth.choose()
            if drafted and not before:
                # What a plain step left queued is not this round's time.
                mx.eval(token)
                start = self.clock()
            # As in plain decoding: where experts have to be fetched, a token is told before it is run.
            told_first = not drafted and not self.model.complete
            if told_first:
                yield (read(token),)
            group, token = self._round(token, drafted) if drafted else self._step(token)
            end = self.clock()
            # A plain step is over only when the next one has read its token.
            own_time = drafted or not before
            self.depth.observe(drafted, len(group) - 1, end - start if own_time else None)
            self.tally.add(drafted, len(group) - 1)
            start = end
            if not told_first:
                yield group

    def stats(self, decode_tps: float) -> MtpStats:
        """What the rounds came to, in an answer of this speed."""
        return self.tally.stats(decode_tps, self.depth.plain_s)

    def _step(self, token: mx.array) -> tuple[tuple[int, ...], mx.array]:
        group, states, following = step(self.model, self.timeline, token, self.sampler)
        self.drafter.follow(states)
        return group, following

    def _round(self, token: mx.array, depth: int) -> tuple[tuple[int, ...], mx.array]:
        """Draft, verify, accept, commit; returns what is committed, and the token that follows it."""
        draft = self.drafter.draft(token, depth, self.sampler)
        # The device drafts while the host builds the verification.
        mx.async_eval(draft.tokens)
        tokens = mx.concatenate([token[None], draft.tokens])
        states, verification = self.model.verify(tokens[None], self.timeline.cache.layers)
        verdict = self.sampler.judge(self.model.logits(states)[0], draft)
        group = _standing(tokens, verdict)
        verification.keep(len(group))
        self.timeline.append(group, verification)
        self.drafter.follow(states[:, : len(group)])
        return group, verdict.token


def _standing(tokens: mx.array, verdict: Verdict) -> tuple[int, ...]:
    """The last token and the drafts that stand: the round's one wait for the device."""
    mx.async_eval(verdict.token)
    accepted = cast(int, verdict.accepted.item())
    return tuple(cast(list[int], tokens.tolist())[: 1 + accepted])
