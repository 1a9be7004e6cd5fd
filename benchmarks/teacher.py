"""What the MTP head and the trunk say about a text that is already there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from unittest.mock import patch

import mlx.core as mx

from mlx_qnext.generate.request import DEEPEST_DRAFT
from mlx_qnext.mlx_lm_parts import KVCache
from mlx_qnext.model.loading import load_model
from mlx_qnext.model.qwen3_next import Model


@dataclass(frozen=True)
class Place:
    """How many drafts in a row are what the text says from some position on, of how many that the text still holds."""

    stood: int
    possible: int


def stood_at(model: Model, prompt: Sequence[int], said: Sequence[int]) -> dict[int, Place]:
    """For every position of the answer: greedy drafts made there by the head, which was fed the whole text before it.

    One pass of the trunk over the text, one of the head over its states, and from each position a chain of drafts on a copy of
    the head's cache: nothing that rounds do is used.
    """
    assert model.mtp is not None
    text = [*prompt, *said]
    hidden = model.hidden(mx.array([text]))
    whole = model.mtp.make_cache()
    states = model.mtp(hidden[:, :-1], mx.array([text[1:]]), whole)
    mx.eval(states, whole.keys, whole.values)
    places = {}
    for at in range(len(prompt), len(text)):
        possible = min(DEEPEST_DRAFT, len(text) - at - 1)
        expected = text[at + 1 : at + 1 + possible]
        drafts = _chain(model, states[:, at - 1 : at], _branch(whole, at), possible)
        places[at] = Place(
            next((i for i, (a, b) in enumerate(zip(drafts, expected)) if a != b), possible), possible
        )
    return places


def _branch(cache: KVCache, entries: int) -> KVCache:
    """The first entries of a cache, as a cache of their own."""
    branch = KVCache()
    branch.keys, branch.values = (mx.contiguous(x[..., :entries, :]) for x in (cache.keys, cache.values))
    branch.offset = entries
    return branch


def _chain(model: Model, state: mx.array, cache: KVCache, length: int) -> list[int]:
    assert model.mtp is not None
    drafts: list[int] = []
    while len(drafts) < length:
        drafts.append(cast(int, mx.argmax(model.logits(state)[0, -1]).item()))
        state = model.mtp(state, mx.array([drafts[-1:]]), cache)
    return drafts


def half_precision(folder: Path) -> Model:
    """The model in the dtype that its weights are stored in, on the CPU too, where the engine computes in fp32."""
    with patch("mlx_qnext.model.weights.compute_dtype", lambda stored: stored):
        return load_model(folder)[0]


def flips(model: Model, texts: Sequence[tuple[Sequence[int], Sequence[int]]], size: int) -> tuple[int, int]:
    """Over prompts and answers: where the likeliest next token differs between passes of `size` tokens and of one; and of how
    many positions."""
    differing = total = 0
    for prompt, said in texts:
        whole = len(said) // size * size
        single, grouped = (_choices(model, prompt, said[:whole], n) for n in (1, size))
        differing += sum(a != b for a, b in zip(single, grouped))
        total += whole
    return differing, total


def _choices(model: Model, prompt: Sequence[int], said: Sequence[int], size: int) -> list[int]:
    caches = model.make_cache()
    mx.eval(model.hidden(mx.array([list(prompt)]), caches), [layer.state for layer in caches])
    choices: list[int] = []
    for start in range(0, len(said), size):
        tokens = mx.array([list(said[start : start + size])])
        if size == 1:
            hidden = model.hidden(tokens, caches)
        else:
            hidden, verification = model.verify(tokens, caches)
            verification.keep(size)
        choices += cast(list[int], mx.argmax(model.logits(hidden)[0], axis=-1).tolist())
    return choices
