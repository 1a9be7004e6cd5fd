"""Draws tokens, one after another, from a seed that fixes them all."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import mlx.core as mx

from mlx_qnext.generate.sampling import Sampling, filtered, penalised

# Logits divided by less would overflow; the distribution has long been its likeliest token.
_GREEDY_BELOW = 1e-5


class Sampler:
    """Draws the answer's tokens; it stays on the device, so that a step can be queued before its token is known.

    Args:
        prompt: the prompt's tokens, which the repetition penalty sees.
        seed: equal seeds draw equal tokens from equal logits; `None` draws a seed.
    """

    def __init__(self, sampling: Sampling, vocab_size: int, prompt: Sequence[int], seed: int | None) -> None:
        self._sampling = sampling
        self._key = mx.random.key(secrets.randbits(64) if seed is None else seed)
        self._tokens = mx.arange(vocab_size)
        self._in_answer = mx.zeros(vocab_size, dtype=mx.bool_)
        self._in_text = self._in_answer
        if sampling.penalises and prompt:
            self._in_text = self._in_answer.at[mx.array(list(prompt))].maximum(mx.array(True))

    def __call__(self, logits: mx.array) -> mx.array:
        """Logits `[V]` → the next token, an unevaluated scalar; the penalties see it from then on."""
        if self._sampling.penalises:
            logits = penalised(logits.astype(mx.float32), self._sampling, self._in_text, self._in_answer)
        token = self._draw(logits)
        if self._sampling.penalises:
            drawn = self._tokens == token
            self._in_answer, self._in_text = self._in_answer | drawn, self._in_text | drawn
        return token

    def _draw(self, logits: mx.array) -> mx.array:
        if self._sampling.temperature < _GREEDY_BELOW:
            return mx.argmax(logits, axis=-1)
        self._key, key = mx.random.split(self._key)
        return mx.random.categorical(filtered(logits, self._sampling), key=key)
