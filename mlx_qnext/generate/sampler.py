"""Draws tokens, one after another, from a seed that fixes them all."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from mlx_qnext.generate import acceptance
from mlx_qnext.generate.acceptance import Verdict
from mlx_qnext.generate.sampling import Sampling, filtered, penalised

# Logits divided by less would overflow; the distribution has long been its likeliest token.
_GREEDY_BELOW = 1e-5


class Draft(NamedTuple):
    """Tokens that a drafter proposes.

    Attributes:
        tokens: `[k]`.
        probabilities: of the distributions they were drawn from, `[k, V]`; `None` where they were chosen greedily.
    """

    tokens: mx.array
    probabilities: mx.array | None


class Sampler:
    """Draws the answer's tokens; it stays on the device, so that a step can be queued before its token is known.

    Args:
        prompt: the prompt's tokens, which the repetition penalty sees.
        seed: equal seeds draw equal tokens from equal calls; `None` draws a seed.
    """

    def __init__(self, sampling: Sampling, vocab_size: int, prompt: Sequence[int], seed: int | None) -> None:
        self._sampling = sampling
        self._key = mx.random.key(secrets.randbits(64) if seed is None else seed)
        self._tokens = mx.arange(vocab_size)
        self._in_answer = mx.zeros(vocab_size, dtype=mx.bool_)
        self._in_prompt = self._in_text = self._marked(prompt)

    def __call__(self, logits: mx.array) -> mx.array:
        """Logits `[V]` → the next token, an unevaluated scalar; the penalties see it from then on."""
        token = self._draw(self._scores(logits))
        if self._sampling.penalises:
            self._see(self._tokens == token)
        return token

    @property
    def takes_likeliest(self) -> bool:
        """Whether each token is the likeliest of its logits, whatever came before."""
        return self._greedy and not self._sampling.penalises

    def draft(self, logits: mx.array, drafts: Sequence[mx.array]) -> Draft:
        """A drafter's logits `[V]` after the drafts so far, scalars → one draft more; the penalties remember none of them."""
        drafted = self._marks(mx.stack(list(drafts)))[-1] if drafts and self._sampling.penalises else None
        scores = self._scores(logits, drafted)
        probabilities = None if self._greedy else mx.softmax(scores)[None]
        return Draft(self._draw(scores)[None], probabilities)

    def judge(self, logits: mx.array, draft: Draft) -> Verdict:
        """The model's logits `[k + 1, V]` from the last token on, over all drafts → what stands of them.

        The tokens that come out are distributed as those of one call after another, and the penalties see them from then on.
        """
        marks = self._marks(draft.tokens) if self._sampling.penalises else None
        scores = self._scores(logits, marks)
        if draft.probabilities is None:
            verdict = acceptance.greedy(mx.argmax(scores, axis=-1), draft.tokens)
        else:
            p = mx.softmax(scores, axis=-1)
            verdict = acceptance.sampled(p, draft.probabilities, draft.tokens, self._next_key())
        if marks is not None:
            self._see(marks[verdict.accepted] | (self._tokens == verdict.token))
        return verdict

    def answer_holds(self, tokens: Sequence[int]) -> None:
        """Make these the tokens of the answer that the penalties see, whatever was drawn."""
        self._in_answer = self._marked(tokens)
        self._in_text = self._in_prompt | self._in_answer

    def _marked(self, tokens: Sequence[int]) -> mx.array:
        """`[V]`: which tokens these are, where penalties ask for it."""
        none = mx.zeros(self._tokens.shape, dtype=mx.bool_)
        if not self._sampling.penalises or not tokens:
            return none
        return none.at[mx.array(list(tokens))].maximum(mx.array(True))

    @property
    def _greedy(self) -> bool:
        return self._sampling.temperature < _GREEDY_BELOW

    def _scores(self, logits: mx.array, drafted: mx.array | None = None) -> mx.array:
        """Log-weights `[…, V]` after penalties, which see what `drafted` `[…, V]` marks too, temperature and filters."""
        if self._sampling.penalises:
            marks = mx.array(False) if drafted is None else drafted
            in_text, in_answer = self._in_text | marks, self._in_answer | marks
            logits = penalised(logits.astype(mx.float32), self._sampling, in_text, in_answer)
        return logits if self._greedy else filtered(logits, self._sampling)

    def _draw(self, scores: mx.array) -> mx.array:
        if self._greedy:
            return mx.argmax(scores, axis=-1)
        return mx.random.categorical(scores, key=self._next_key())

    def _next_key(self) -> mx.array:
        self._key, key = mx.random.split(self._key)
        return key

    def _marks(self, drafts: mx.array) -> mx.array:
        """`[k + 1, V]`: row i marks the first i drafts."""
        each = drafts[:, None] == self._tokens
        return mx.cumsum(mx.concatenate([mx.zeros_like(each[:1]), each]).astype(mx.int32), axis=0) > 0

    def _see(self, marks: mx.array) -> None:
        self._in_answer, self._in_text = self._in_answer | marks, self._in_text | marks
