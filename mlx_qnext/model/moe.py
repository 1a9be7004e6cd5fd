"""The feed-forward half of a layer: 512 experts of which each token visits a few, plus one that every token visits.

The shared expert stands in the experts' own stack, as one expert more, wherever it is stored alike: then a token's whole
feed-forward is three products (router, gate and up, down).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
from mlx import nn

from mlx_qnext.model.linear import ExpertLinear, Few, Linear, Projection
from mlx_qnext.ops.elementwise import gated, swiglu, weighted
from mlx_qnext.ops.matrix import Matrix, join, matches

# Fewer routed rows than this are looked up as they come; more are sorted first, so that an expert's weights are read once.
SORT_FROM_ROWS = 64


class Mlp(nn.Module):
    """A dense gated feed-forward (SwiGLU): gate and up are one product."""

    def __init__(self, gate: Matrix, up: Matrix, down: Matrix) -> None:
        super().__init__()
        self.gate_up = Projection([gate, up])
        self.down = Linear(down)

    def __call__(self, x: mx.array) -> mx.array:
        """`[…, D] → […, D]`."""
        gate, up = mx.split(self.gate_up(x), 2, axis=-1)
        return self.down(swiglu(gate, up))


class Experts(nn.Module):
    """A stack of gated feed-forwards; every token names the ones it visits.

    Args:
        gate_up: `[E, …]`, gate and up as one matrix or as two.
    """

    def __init__(self, gate_up: Sequence[Matrix], down: Matrix) -> None:
        super().__init__()
        self.gate_up = [ExpertLinear(part) for part in gate_up]
        self.down = ExpertLinear(down)

    @classmethod
    def resident(cls, gate: Matrix, up: Matrix, down: Matrix) -> Experts:
        """Experts that are in memory, or will be once they are evaluated."""
        return cls([join([gate, up], axis=-2)] if matches(gate, up) else [gate, up], down)

    @property
    def complete(self) -> bool:
        """Whether every expert is in memory, so that visiting them is a pure function."""
        return True

    def __call__(self, x: mx.array, experts: mx.array) -> mx.array:
        """`x` `[B, T, D]`, `experts` `[B, T, K]` → each visit's output `[B, T, K, D]`."""
        B, T, K = experts.shape
        if experts.size < SORT_FROM_ROWS:
            return self._visit(x[:, :, None, None], experts, in_order=False)[..., 0, :]
        flat = experts.flatten()
        order = mx.argsort(flat)
        rows = x.flatten(0, 1)[order // K][:, None]
        y = self._visit(rows, flat[order], in_order=True)[:, 0]
        return mx.unflatten(y[mx.argsort(order)], 0, (B, T, K))

    def _visit(self, x: mx.array, experts: mx.array, *, in_order: bool, few: Few | None = None) -> mx.array:
        halves = [part(x, experts, in_order=in_order, few=few) for part in self.gate_up]
        gate, up = mx.split(halves[0], 2, axis=-1) if len(halves) == 1 else halves
        return self.down(swiglu(gate, up), experts, in_order=in_order, few=few)


class Routed(NamedTuple):
    """What a router decided.

    Attributes:
        x: its input, `[B, T, D]`.
        experts: that each token visits, `[B, T, K]`; the shared one too, as the last, where it stands in the stack.
        weights: of the visits' outputs, `[B, T, K]` in fp32.
        shared_logit: of the shared expert's gate, `[B, T, 1]`.
    """

    x: mx.array
    experts: mx.array
    weights: mx.array
    shared_logit: mx.array


class SparseMoe(nn.Module):
    """Router, experts and shared expert (`Qwen3NextSparseMoeBlock` of transformers).

    Args:
        router: `[E, D]`. shared_gate: `[1, D]`.
        shared: the shared expert, or `None` where it stands behind the others in `experts`.
        top_k: experts a token visits. normalise: whether their weights are rescaled to sum to 1.
    """

    def __init__(
        self,
        router: Matrix,
        shared_gate: Matrix,
        experts: Experts,
        shared: Mlp | None,
        *,
        top_k: int,
        normalise: bool,
    ) -> None:
        super().__init__()
        self.num_experts, self.top_k, self.normalise = router.rows, top_k, normalise
        self.router = Projection([router, shared_gate])
        self.experts = experts
        self.shared = shared

    def __call__(self, x: mx.array) -> mx.array:
        """`[B, T, D] → [B, T, D]`."""
        routed = self.route(x)
        return self.combine(self.experts(x, routed.experts), routed)

    def route(self, x: mx.array) -> Routed:
        """Which experts `x` `[B, T, D]` visits; a pure function."""
        logits = self.router(x)
        experts, weights = self._choose(logits[..., : self.num_experts].astype(mx.float32))
        shared_logit = logits[..., self.num_experts :]
        if self.shared is None:
            shared_id = mx.full((*experts.shape[:-1], 1), self.num_experts, dtype=experts.dtype)
            experts = mx.concatenate([experts, shared_id], axis=-1)
            weights = mx.concatenate([weights, mx.sigmoid(shared_logit.astype(mx.float32))], axis=-1)
        return Routed(x, experts, weights, shared_logit)

    def combine(self, visits: mx.array, routed: Routed) -> mx.array:
        """The output `[B, T, D]` from each visit's output `[B, T, K, D]`; a pure function."""
        x = routed.x
        y = weighted(visits, routed.weights).sum(axis=-2).astype(x.dtype)
        return y if self.shared is None else y + gated(self.shared(x), routed.shared_logit)

    def _choose(self, logits: mx.array) -> tuple[mx.array, mx.array]:
        """The `top_k` experts of each token and their softmax weights, `[B, T, K]`, in no particular order.

        Softmax over the chosen logits is softmax over all of them, rescaled to sum to 1.
        """
        experts = mx.argpartition(logits, kth=-self.top_k, axis=-1)[..., -self.top_k :]
        chosen = mx.take_along_axis(logits, experts, axis=-1)
        if self.normalise:
            return experts, mx.softmax(chosen, axis=-1)
        return experts, mx.exp(chosen - mx.logsumexp(logits, axis=-1, keepdims=True))


def stackable(stack: Matrix, one: Matrix) -> bool:
    """Whether a matrix can stand in a stack as one expert more."""
    return matches(stack, one) and stack.rows == one.rows


def stacked(stack: Matrix, one: Matrix) -> Matrix:
    """The stack with the matrix behind it."""
    return join([stack, one.map(lambda x: x[None])], axis=0)
