"""Whatever was drafted, the tokens that come out are distributed as plain sampling's: enumerated, not sampled."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import ENUMERATED

from mlx_qnext.generate import acceptance
from mlx_qnext.generate.acceptance import Verdict
from mlx_qnext.generate.sampler import Draft, Sampler
from mlx_qnext.generate.sampling import Sampling

V = 4
PROMPT, LAST = [0, 2], 1
PLAIN = Sampling(1.0, 0, 1.0, 0.0, 1.0, 0.0)
PIPELINES = {
    "plain": PLAIN,
    "temperature": replace(PLAIN, temperature=0.4),
    "top-k": replace(PLAIN, top_k=2),
    "top-p": replace(PLAIN, top_p=0.7),
    "min-p": replace(PLAIN, min_p=0.3),
    "repetition": replace(PLAIN, repetition_penalty=1.7),
    "presence": replace(PLAIN, presence_penalty=1.3),
    "all": Sampling(0.7, 3, 0.9, 0.05, 1.4, 0.8),
}
each_pipeline = pytest.mark.parametrize("sampling", PIPELINES.values(), ids=PIPELINES.keys())


class Toy:
    """Logits that depend on the last two tokens, at random."""

    def __init__(self, seed: int) -> None:
        self.table = np.random.default_rng(seed).normal(size=(V, V, V)).astype(np.float32) * 1.5

    def logits(self, said: tuple[int, ...]) -> mx.array:
        return mx.array(self.table[[*PROMPT, LAST, *said][-2:][0], [*PROMPT, LAST, *said][-1]])


def sampler_after(sampling: Sampling, said: tuple[int, ...]) -> Sampler:
    """A sampler that has drawn these tokens, and before them LAST."""
    sampler = Sampler(sampling, V, PROMPT, seed=0)
    for token in (LAST, *said):
        sampler._see(mx.arange(V) == token)
    return sampler


def plain(sampling: Sampling, toy: Toy, said: tuple[int, ...]) -> np.ndarray:
    """The distribution of plain sampling's next token."""
    scores = sampler_after(sampling, said)._scores(toy.logits(said))
    return np.array(mx.softmax(scores), np.float64)


def proposal(sampler: Sampler, drafter: Toy, drafts: tuple[int, ...]) -> Draft:
    rows = [
        sampler.draft(drafter.logits(drafts[:i]), [*map(mx.array, drafts[:i])]) for i in range(len(drafts))
    ]
    return Draft(mx.array(drafts), mx.concatenate([row.probabilities for row in rows]))  # pyright: ignore[reportArgumentType]


def round_outcomes(
    sampling: Sampling, target: Toy, drafter: Toy, depth: int, monkeypatch: pytest.MonkeyPatch
) -> dict[tuple[int, ...], float]:
    """The probability of every group of tokens that one round can emit."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    seen: list[mx.array] = []

    def spy(p: mx.array, q: mx.array, drafts: mx.array, key: mx.array) -> Verdict:
        seen[:] = [p, q]
        return Verdict(mx.array(0), mx.array(0))

    monkeypatch.setattr(acceptance, "sampled", spy)
    for drafts in itertools.product(range(V), repeat=depth):
        sampler = sampler_after(sampling, ())
        draft = proposal(sampler, drafter, drafts)
        logits = mx.stack([target.logits(drafts[:i]) for i in range(depth + 1)])
        sampler.judge(logits, draft)
        p, q = seen
        chances = np.array(acceptance.acceptance_probability(p[:-1], q, draft.tokens), np.float64)
        rows = np.array(q, np.float64)
        weight = np.prod([rows[i, d] for i, d in enumerate(drafts)])
        if weight == 0:
            continue
        for accepted in range(depth + 1):
            falls = 1 - chances[accepted] if accepted < depth else 1.0
            rest = acceptance.residual(p[accepted], q[accepted] if accepted < depth else mx.zeros(V))
            following = np.array(rest / rest.sum(), np.float64)
            for token in range(V):
                found[(*drafts[:accepted], token)] += (
                    weight * np.prod(chances[:accepted]) * falls * following[token]
                )
    return found


@each_pipeline
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_round_and_plain_sampling_after_it_give_the_joint_distribution_of_plain_sampling(
    sampling: Sampling, depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, drafter = Toy(1), Toy(2)
    joint = np.zeros((V,) * (depth + 1))
    for group, probability in round_outcomes(sampling, target, drafter, depth, monkeypatch).items():
        for rest in itertools.product(range(V), repeat=depth + 1 - len(group)):
            whole, after = (*group, *rest), 1.0
            for i in range(len(group), depth + 1):
                after *= plain(sampling, target, whole[:i])[whole[i]] if probability * after else 0.0
            joint[whole] += probability * after
    expected = np.zeros_like(joint)
    for whole in itertools.product(range(V), repeat=depth + 1):
        steps = [plain(sampling, target, whole[:i])[token] for i, token in enumerate(whole)]
        expected[whole] = np.prod(steps)
    ENUMERATED.check(joint, expected, "joint distribution")


@each_pipeline
@pytest.mark.parametrize("accepted", [0, 1, 2])
def test_after_a_round_the_penalties_have_seen_exactly_what_it_emitted(
    sampling: Sampling, accepted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts, token = (3, 0), 2
    monkeypatch.setattr(acceptance, "sampled", lambda *_: Verdict(mx.array(accepted), mx.array(token)))
    sampler, target = sampler_after(sampling, ()), Toy(1)
    logits = mx.stack([target.logits(drafts[:i]) for i in range(3)])
    sampler.judge(logits, proposal(sampler, Toy(2), drafts))
    said = (*drafts[:accepted], token)
    scores = sampler._scores(target.logits(said))
    ENUMERATED.check(np.array(mx.softmax(scores)), plain(sampling, target, said), "next token")


weights = st.lists(st.sampled_from([0.0, 1e-6, 0.1, 0.5, 1.0, 3.0]), min_size=V, max_size=V).filter(any)


@settings(max_examples=100, deadline=None)
@given(weights, weights)
def test_one_draft_from_any_distribution_comes_out_as_any_other(
    target: list[float], draft: list[float]
) -> None:
    p, q = (mx.array(w) / sum(w) for w in (target, draft))
    rest = np.array(acceptance.residual(p, q), np.float64)
    out = np.zeros(V)
    for d in range(V):
        if q[d].item() == 0:
            continue
        stands = acceptance.acceptance_probability(p[None], q[None], mx.array([d])).item()
        out[d] += q[d].item() * stands
        out += q[d].item() * (1 - stands) * rest / rest.sum()
    ENUMERATED.check(out, np.array(p), "marginal")


def test_draws_follow_the_rule() -> None:
    """The draws themselves, against the enumeration: how many stand, and what follows."""
    rng = np.random.default_rng(5)
    p, q = (mx.array(rng.dirichlet(np.ones(V), size=n).astype(np.float32)) for n in (3, 2))
    drafts = mx.array([int(np.argmax(np.array(q[0]))), int(np.argmax(np.array(q[1])))])
    chances = np.array(acceptance.acceptance_probability(p[:-1], q, drafts))
    expected = np.zeros((3, V))
    for n in range(3):
        falls = 1 - chances[n] if n < 2 else 1.0
        rest = np.array(acceptance.residual(p[n], q[n] if n < 2 else mx.zeros(V)))
        expected[n] = np.prod(chances[:n]) * falls * rest / rest.sum()
    draws, counts = 3000, np.zeros((3, V))
    for n in range(draws):
        verdict = acceptance.sampled(p, q, drafts, mx.random.key(n))
        counts[verdict.accepted.item(), verdict.token.item()] += 1
    likely = expected > 0
    assert counts[~likely].sum() == 0
    chi_square = ((counts - draws * expected)[likely] ** 2 / (draws * expected[likely])).sum()
    # 0.1 % of fair draws exceed it, with up to eleven degrees of freedom; the keys are fixed.
    assert chi_square < 31.3


def test_greedy_drafts_stand_up_to_the_first_that_the_model_would_not_have_chosen() -> None:
    choices = mx.array([5, 6, 7, 8])
    for drafts, accepted in [([5, 6, 7], 3), ([5, 6, 0], 2), ([5, 0, 7], 1), ([0, 6, 7], 0)]:
        verdict = acceptance.greedy(choices, mx.array(drafts))
        assert (verdict.accepted.item(), verdict.token.item()) == (accepted, choices[accepted].item())


def test_drafts_are_drawn_with_penalties_that_see_the_drafts_before_them() -> None:
    sampler = Sampler(replace(PLAIN, temperature=0.0, presence_penalty=5.0), 3, [], seed=0)
    logits, drafts = mx.array([3.0, 2.0, 1.0]), []
    for _ in range(4):
        drafts.append(sampler.draft(logits, drafts).tokens[0])
    assert [draft.item() for draft in drafts] == [0, 1, 2, 0]
    assert sampler(logits).item() == 0
