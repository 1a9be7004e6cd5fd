"""Which drafted tokens stand: pure functions of distributions, drafts and a random key.

The accept/residual rule (Leviathan et al. 2023, arXiv 2211.17192; Chen et al. 2023, arXiv 2302.01318): a draft d from q stands
with probability min(1, p(d) / q(d)); the first that falls is replaced by a draw from max(p - q, 0), rescaled. Whatever q is,
the tokens that come out are distributed as p.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx


class Verdict(NamedTuple):
    """How many of the drafts stand, and the token that follows them; both unevaluated scalars."""

    accepted: mx.array
    token: mx.array


def greedy(choices: mx.array, drafts: mx.array) -> Verdict:
    """Drafts `[k]` stand as long as each is the target's own choice, of `choices` `[k + 1]`, after the ones before it."""
    accepted = _leading(choices[:-1] == drafts)
    return Verdict(accepted, choices[accepted])


def sampled(p: mx.array, q: mx.array, drafts: mx.array, key: mx.array) -> Verdict:
    """The rule over a chain of drafts `[k]`, drawn from the rows of `q` `[k, V]`.

    Row i of `p` `[k + 1, V]` is the target's distribution after the first i drafts. Where all stand, the token is drawn from
    its last row.
    """
    accepting, drawing = mx.random.split(key)
    chance = acceptance_probability(p[:-1], q, drafts)
    accepted = _leading(mx.random.uniform(shape=drafts.shape, key=accepting) < chance)
    proposed = mx.concatenate([q, mx.zeros_like(q[:1])])[accepted]
    rest = residual(p[accepted], proposed)
    return Verdict(accepted, mx.random.categorical(mx.log(rest), key=drawing))


def acceptance_probability(p: mx.array, q: mx.array, drafts: mx.array) -> mx.array:
    """min(1, p(d) / q(d)) for each row of p and q `[k, V]` and its draft."""
    chosen = drafts[:, None]
    of_p, of_q = (mx.take_along_axis(x, chosen, axis=-1)[:, 0] for x in (p, q))
    return mx.minimum(of_p / of_q, 1)


def residual(p: mx.array, q: mx.array) -> mx.array:
    """Weights of what p leaves once q is taken out; p itself where rounding leaves nothing, because the two are one."""
    rest = mx.maximum(p - q, 0)
    return mx.where(rest.sum(axis=-1, keepdims=True) > 0, rest, p)


def _leading(stands: mx.array) -> mx.array:
    """How many leading ones of `[k]` are true."""
    return mx.cumprod(stands.astype(mx.int32)).sum()
