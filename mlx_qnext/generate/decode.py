"""Plain decoding: one token a step, the next step queued before this one's token is read.

Decoders share one form, so that others can take this one's place: an iterator of groups of tokens, each group already in the
cache when it is yielded.
"""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from mlx_qnext.generate.sampler import Sampler
from mlx_qnext.generate.timeline import Timeline
from mlx_qnext.model.qwen3_next import Model


def decode(model: Model, timeline: Timeline, hidden: mx.array, sampler: Sampler) -> Iterator[tuple[int, ...]]:
    """Endless groups of one token, from the prompt's last hidden state `[1, 1, hidden]` on.

    When a group is yielded its tokens are on the timeline, and the model has run them over the cache; where experts have to be
    fetched, they are and it has when the next one is asked for.
    """
    token = sampler(model.logits(hidden)[0, -1])
    mx.async_eval(token)
    while True:
        # Where the host waits for every layer's router it can't be a step ahead, and the token is told before it is run.
        told_first = not model.complete
        if told_first:
            yield (read(token),)
        group, _, token = step(model, timeline, token, sampler)
        if not told_first:
            yield group


def step(
    model: Model, timeline: Timeline, token: mx.array, sampler: Sampler
) -> tuple[tuple[int, ...], mx.array, mx.array]:
    """Run the scalar `token` and append it; returns its group, its state `[1, 1, hidden]` and the following token, queued."""
    hidden = model.hidden(token.reshape(1, 1), timeline.cache.layers)
    following = sampler(model.logits(hidden)[0, -1])
    # The device works on the next token while the host handles this one.
    mx.async_eval(following)
    group = (read(token),)
    timeline.append(group)
    return group, hidden, following


def read(token: mx.array) -> int:
    """Wait for a token."""
    value = token.item()
    assert isinstance(value, int)
    return value
