"""Drafts tokens with the MTP head, whose memory follows the timeline."""

from __future__ import annotations

import mlx.core as mx

from mlx_qnext.cache.head import HeadCache
from mlx_qnext.generate.sampler import Draft, Sampler
from mlx_qnext.generate.timeline import Timeline
from mlx_qnext.model.mtp import MtpHead
from mlx_qnext.model.qwen3_next import Model


class Drafter:
    """The head of one model over one timeline.

    The head pairs the trunk's state at a token with the token after it. What it is given waits until a draft, or `catch_up`,
    turns it into keys and values: so following costs next to nothing while plain steps are taken. Entries made of drafts are
    taken back before the round ends, and made again from the trunk's true states.
    """

    def __init__(self, model: Model, head: MtpHead, timeline: Timeline, memory: HeadCache) -> None:
        self._model, self._head, self._timeline, self._memory = model, head, timeline, memory

    def follow(self, states: mx.array) -> None:
        """Take the trunk's states `[1, n, hidden]` of the tokens that were just appended to the timeline."""
        self._memory.follow(states)

    def catch_up(self) -> None:
        """Pair every waiting state whose next token is on the timeline: over a prompt only keys and values are computed."""
        states = self._memory.take()
        known = states.shape[1] - 1
        # Contiguous, so that one waiting state does not keep a prompt's worth of them alive.
        self._memory.follow(mx.contiguous(states[:, known:]))
        if known:
            tokens = mx.array([self._next_tokens(known)])
            self._head.read(states[:, :known], tokens, self._memory.kv)

    def draft(self, token: mx.array, depth: int, sampler: Sampler) -> Draft:
        """`depth` tokens that may follow `token`, the scalar that comes after the timeline; unevaluated.

        The first comes from the trunk's own state, the others from the head's, whose entries are taken back at once.
        """
        states, kv = self._memory.take(), self._memory.kv
        known = mx.array(self._next_tokens(states.shape[1] - 1), dtype=token.dtype)
        state = self._head.last(states, mx.concatenate([known, token[None]])[None], kv)
        drafts = [sampler.draft(self._model.logits(state)[0, -1], [])]
        while len(drafts) < depth:
            state = self._head.last(state, drafts[-1].tokens[None], kv)
            drafts.append(sampler.draft(self._model.logits(state)[0, -1], [d.tokens[0] for d in drafts]))
        kv.trim(depth - 1)
        return _joined(drafts)

    def _next_tokens(self, count: int) -> list[int]:
        """The tokens after the next `count` positions that the head has no entry for."""
        start = self._memory.kv.offset + 1
        return self._timeline.tokens[start : start + count]


def _joined(drafts: list[Draft]) -> Draft:
    rows = [d.probabilities for d in drafts if d.probabilities is not None]
    tokens = mx.concatenate([d.tokens for d in drafts])
    return Draft(tokens, mx.concatenate(rows) if rows else None)
