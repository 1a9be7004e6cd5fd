"""Which experts every token visits, layer by layer: recorded from a model, or drawn by a generator.

Beside the truth stand two guesses for every layer but the first, made while the layer before it is at work: the layer's own
norm and router applied to the residual stream as that layer's experts find it (`early`), and as they leave it (`late`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_qnext.mlx_lm_parts import create_attention_mask
from mlx_qnext.model.gated_delta_net import RecurrentState
from mlx_qnext.model.layers import AttentionLayer, RecurrentLayer
from mlx_qnext.model.moe import SparseMoe
from mlx_qnext.model.qwen3_next import Model

# Guesses are kept to this many times top-k.
_GUESSED = 2
Layer = AttentionLayer | RecurrentLayer


@dataclass(frozen=True)
class Text:
    """A prompt and its answer.

    Attributes:
        prompt: tokens of the prompt.
        chosen: `[T, L, K]`. early, late: `[T, L, 2 K]`, the likeliest first; in layer 0 they mean nothing.
        rejected: `[T - prompt, L, K]`, what another token in the place of each of the answer's visits.
    """

    prompt: int
    chosen: np.ndarray
    early: np.ndarray
    late: np.ndarray
    rejected: np.ndarray


@dataclass(frozen=True)
class Trace:
    """Texts one after another, through layers of `experts` experts."""

    name: str
    experts: int
    texts: Sequence[Text]

    @property
    def layers(self) -> int:
        """Layers with experts."""
        return self.texts[0].chosen.shape[1]

    @property
    def top_k(self) -> int:
        """Experts that a token visits in a layer."""
        return self.texts[0].chosen.shape[2]


def recorded(name: str, model: Model, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Trace:
    """The routing of prompts and answers, each text in one pass.

    Raises:
        AssertionError: the layers, walked here part by part, do not give the model's own logits.
    """
    made = [_walk(model, prompt, said) for prompt, said in texts]
    return Trace(name, model.config.num_experts, made)


def _walk(model: Model, prompt: Sequence[int], said: Sequence[int]) -> Text:
    tokens = mx.array([[*prompt, *said]])
    x = model.model.embed_tokens(tokens)
    mask = create_attention_mask(x, None)
    chosen, early, late = [], [], []
    for index, layer in enumerate(model.layers):
        mixed = _mix(layer, x, mask)
        chosen.append(_ranked(layer, mixed, 1))
        x = layer.feed(mixed)
        after = model.layers[(index + 1) % len(model.layers)]
        early.append(_ranked(after, mixed, _GUESSED))
        late.append(_ranked(after, x, _GUESSED))
    logits, expected = model.logits(model.model.norm(x)), model(tokens)
    # Compiled stretches round elsewhere than the parts do.
    assert mx.allclose(logits, expected, rtol=1e-3, atol=1e-3), "The walk is not the model's."
    # Guesses are made one layer ahead; layer 0 gets the last layer's, which mean nothing.
    early, late = (np.roll(_by_token(guess), 1, axis=1) for guess in (early, late))
    return Text(len(prompt), _by_token(chosen), early, late, _rejected(model, prompt, said, logits))


def _mix(layer: Layer, x: mx.array, mask: mx.array | str | None) -> mx.array:
    if isinstance(layer, RecurrentLayer):
        return layer.mix(x, layer.mixer.empty_state(1, x.dtype))[0]
    return layer.mix(x, mask, None)


def _rejected(model: Model, prompt: Sequence[int], said: Sequence[int], logits: mx.array) -> np.ndarray:
    """In the place of every token of the answer, the likeliest other token: what a draft that is rejected may look like."""
    best = np.array(mx.argsort(-logits[0, len(prompt) - 1 : -1], axis=-1)[:, :2])
    others = np.where(best[:, 0] == said, best[:, 1], best[:, 0])
    caches = model.make_cache()
    model.hidden(mx.array([list(prompt)]), caches)
    rows = []
    for token, other in zip(said, others.tolist()):
        rows.append(_aside(model, other, caches))
        mx.eval(model.hidden(mx.array([[token]]), caches))
    return np.concatenate(rows)


def _aside(model: Model, token: int, caches: Sequence[Any]) -> np.ndarray:
    """The experts `[1, L, K]` that a token visits; the caches are as before."""
    x = model.model.embed_tokens(mx.array([[token]]))
    chosen = []
    for layer, cache in zip(model.layers, caches):
        if isinstance(layer, RecurrentLayer):
            mixed, _ = layer.mix(x, RecurrentState(cache[0], cache[1]))
        else:
            mixed = layer.mix(x, None, cache)
            cache.trim(1)
        chosen.append(_ranked(layer, mixed, 1))
        x = layer.feed(mixed)
    return _by_token(chosen)


def _ranked(layer: Layer, x: mx.array, times: int) -> mx.array:
    """The experts that a layer's router likes best, `times` top-k of them, `[T, times K]`."""
    moe = layer.feed_forward
    assert isinstance(moe, SparseMoe)
    logits = moe.router(layer.post_norm(x))[0, :, : moe.num_experts]
    return mx.argsort(-logits, axis=-1)[:, : times * moe.top_k]


def _by_token(by_layer: list[mx.array]) -> np.ndarray:
    return np.stack([np.array(layer) for layer in by_layer], axis=1).astype(np.int64)


@dataclass(frozen=True)
class Generator:
    """A skewed router: each token visits the `top_k` experts whose logits are largest.

    A logit is the sum of -`zipf` · log(rank), ranks being dealt anew in each layer; of a normal number of size `topic`, drawn
    once a text; of a first-order autoregression of size `drift` whose correlation from token to token is `memory`; and of
    Gumbel noise, which makes the largest a draw without replacement from the softmax of the rest. Guesses see the same logits
    through normal noise of size `early` or `late`, which is an assumption and not a finding; rejected drafts have Gumbel noise
    of their own.
    """

    experts: int = 512
    top_k: int = 10
    layers: int = 6
    texts: int = 24
    prompt: int = 32
    answer: int = 96
    zipf: float = 0.6
    topic: float = 0.7
    drift: float = 1.0
    memory: float = 0.9
    early: float = 0.7
    late: float = 0.5

    def trace(self, name: str, seed: int = 0) -> Trace:
        """The texts of this generator, the same for the same seed."""
        rng = np.random.default_rng(seed)
        ranks = np.stack([rng.permutation(self.experts) + 1 for _ in range(self.layers)])
        popularity = -self.zipf * np.log(ranks)
        return Trace(name, self.experts, [self._text(rng, popularity) for _ in range(self.texts)])

    def _text(self, rng: np.random.Generator, popularity: np.ndarray) -> Text:
        topic = popularity + self.topic * rng.standard_normal(popularity.shape)
        drift = rng.standard_normal(popularity.shape)
        wishes = np.empty((self.prompt + self.answer, *popularity.shape))
        for token in range(len(wishes)):
            fresh = rng.standard_normal(drift.shape)
            drift = self.memory * drift + (1 - self.memory**2) ** 0.5 * fresh
            wishes[token] = topic + self.drift * drift
        logits, others = (wishes + rng.gumbel(size=wishes.shape) for _ in range(2))
        early, late = (
            self._best(logits + size * rng.standard_normal(logits.shape), _GUESSED)
            for size in (self.early, self.late)
        )
        rejected = self._best(others, 1)[self.prompt :]
        return Text(self.prompt, self._best(logits, 1), early, late, rejected)

    def _best(self, logits: np.ndarray, times: int) -> np.ndarray:
        return np.argsort(-logits, axis=-1)[..., : times * self.top_k]
