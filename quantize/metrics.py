"""What two models say of the same tokens, compared a few positions at a time: never all logits at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

# Logits of one model at a time, in entries: 64 MB in fp32, and a handful of arrays of that size are alive at once.
_LOGITS = 1 << 24

Head = Callable[[mx.array], mx.array]


@dataclass(frozen=True)
class Reader:
    """A model behind its last layer: the head that turns states into logits over `vocabulary` entries."""

    head: Head
    vocabulary: int

    def likeliest(self, hidden: mx.array) -> NDArray[np.int64]:
        """States `[B, T, hidden]` → the tokens they predict, `[B, T]`."""
        tops = [np.array(mx.argmax(self.head(states), axis=-1)) for (states,) in self.pieces(hidden)]
        return np.concatenate(tops).astype(np.int64).reshape(hidden.shape[:2])

    def pieces(self, *arrays: mx.array) -> Iterator[tuple[mx.array, ...]]:
        """Rows of `[B, T, …]` arrays, side by side, as many as may have logits at once."""
        size = max(1, _LOGITS // self.vocabulary)
        flat = [array.flatten(0, 1) for array in arrays]
        for start in range(0, flat[0].shape[0], size):
            yield tuple(array[start : start + size] for array in flat)


class Scores(NamedTuple):
    """A number for each predicted token, `[N]`.

    Attributes:
        kl: KL(source ‖ quantised) in nats. same_top: whether both find the same token likeliest.
        surprise, source_surprise: negative log-likelihood of the token that came, in nats.
    """

    kl: NDArray[np.float64]
    same_top: NDArray[np.float64]
    surprise: NDArray[np.float64]
    source_surprise: NDArray[np.float64]

    def where(self, chosen: NDArray[np.bool_]) -> Scores:
        """Those of the chosen tokens, `[N]`."""
        return Scores(*(numbers[chosen] for numbers in self))


def compare(source: Reader, quantised: Reader, states: Sequence[mx.array], tokens: mx.array) -> Scores:
    """Scores of two models by their states, each `[B, T, hidden]`, at `tokens` `[B, T]`, row after row.

    The last position of a row predicts a token that nobody knows, and is left out.
    """
    known = [state[:, :-1] for state in states]
    pieces = [
        _scores(source.head(p), quantised.head(q), targets[:, None])
        for p, q, targets in source.pieces(*known, tokens[:, 1:])
    ]
    return joined([Scores(*(np.array(x, dtype=np.float64) for x in piece)) for piece in pieces])


def joined(scores: Sequence[Scores]) -> Scores:
    """All of them as one."""
    return Scores(*(np.concatenate(parts) for parts in zip(*scores, strict=True)))


def _scores(source: mx.array, quantised: mx.array, targets: mx.array) -> tuple[mx.array, ...]:
    """Logits `[N, vocabulary]` and targets `[N, 1]` → the fields of `Scores`, computed."""
    p, q = _log_softmax(source), _log_softmax(quantised)
    scores = (
        (mx.exp(p) * (p - q)).sum(axis=-1),
        mx.argmax(p, axis=-1) == mx.argmax(q, axis=-1),
        -mx.take_along_axis(q, targets, axis=-1)[:, 0],
        -mx.take_along_axis(p, targets, axis=-1)[:, 0],
    )
    # Before the next piece's logits are made.
    mx.eval(*scores)
    return scores


def _log_softmax(logits: mx.array) -> mx.array:
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
