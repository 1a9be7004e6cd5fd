"""From logits to the distribution that a token is drawn from: penalties, temperature, then the filters.

The order is that of transformers' processors: repetition penalty, temperature, top-k, top-p, min-p, each acting on what the
ones before it left. Presence penalty stands with the repetition penalty, as in vLLM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx

from mlx_qnext.generate.request import GenerationConfig
from mlx_qnext.generation_defaults import GenerationDefaults


@dataclass(frozen=True)
class Sampling:
    """Every sampling value of one request, settled; meanings and ranges as in `GenerationConfig`."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float

    @classmethod
    def settle(cls, config: GenerationConfig, defaults: GenerationDefaults) -> Sampling:
        """The request's values, and the model's own where the request names none."""
        names = cls.__dataclass_fields__
        asked = {name: getattr(config, name) for name in names}
        return cls(
            **{name: getattr(defaults, name) if value is None else value for name, value in asked.items()}
        )

    @property
    def penalises(self) -> bool:
        """Whether the distribution depends on the tokens so far."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0


def penalised(logits: mx.array, sampling: Sampling, in_text: mx.array, in_answer: mx.array) -> mx.array:
    """Logits `[…, V]` after both penalties.

    `in_text` `[…, V]` marks tokens of prompt and answer: their logits are divided by the repetition penalty where positive and
    multiplied where negative (Keskar et al. 2019). `in_answer` `[…, V]` marks tokens of the answer: the presence penalty is
    subtracted from theirs.
    """
    penalty = sampling.repetition_penalty
    repeated = mx.where(logits > 0, logits / penalty, logits * penalty)
    logits = mx.where(in_text, repeated, logits)
    return logits - sampling.presence_penalty * in_answer


def filtered(logits: mx.array, sampling: Sampling) -> mx.array:
    """Log-weights `[…, V]` of the distributions after temperature, top-k, top-p and min-p; what is excluded is -inf.

    Tokens whose logits are equal stay or go together. The most likely token always stays.
    """
    scores = logits.astype(mx.float32) / sampling.temperature
    if sampling.top_k == 0 and sampling.top_p == 1.0 and sampling.min_p == 0.0:
        return scores
    ordered = -mx.sort(-scores, axis=-1)
    least = mx.array(-math.inf)
    if 0 < sampling.top_k < ordered.shape[-1]:
        least = ordered[..., sampling.top_k - 1, None]
        ordered = mx.where(ordered < least, -math.inf, ordered)
    if sampling.top_p < 1.0:
        probabilities = mx.softmax(ordered, axis=-1)
        likelier = mx.cumsum(probabilities, axis=-1) - probabilities
        kept = mx.where(likelier < sampling.top_p, ordered, math.inf)
        least = mx.maximum(least, kept.min(axis=-1, keepdims=True))
    if sampling.min_p > 0.0:
        least = mx.maximum(least, ordered[..., :1] + math.log(sampling.min_p))
    return mx.where(scores < least, -math.inf, scores)
