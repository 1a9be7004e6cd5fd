"""Tokens are drawn from the distribution that transformers would draw from, and a seed fixes them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import SAMPLING

from mlx_qnext.errors import UsageError
from mlx_qnext.generate.request import GenerationConfig
from mlx_qnext.generate.sampler import Sampler
from mlx_qnext.generate.sampling import Sampling, filtered, penalised
from mlx_qnext.generation_defaults import GenerationDefaults

VECTORS = json.loads((Path(__file__).parent / "vectors" / "sampling" / "vectors.json").read_text())["cases"]
PLAIN = Sampling(1.0, 0, 1.0, 0.0, 1.0, 0.0)
NAMES = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")

logits_lists = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=30, unique=True)


def marks(tokens: list[int], size: int) -> mx.array:
    return mx.array(np.isin(np.arange(size), tokens))


def test_distributions_equal_those_of_transformers_processors() -> None:
    for case in VECTORS:
        sampling = replace(PLAIN, **{name: case[name] for name in NAMES})
        logits = mx.array(case["logits"])
        logits = penalised(logits, sampling, marks(case["text"], logits.size), mx.zeros(logits.size))
        actual = np.array(mx.softmax(filtered(logits, sampling)))
        SAMPLING.check(actual, np.array(case["probabilities"]), str({name: case[name] for name in NAMES}))


@given(logits_lists, st.integers(1, 30))
def test_top_k_keeps_exactly_the_k_likeliest(logits: list[float], k: int) -> None:
    kept = np.isfinite(np.array(filtered(mx.array(logits), replace(PLAIN, top_k=k))))
    assert kept.sum() == min(k, len(logits))
    assert set(np.argsort(logits)[-kept.sum() :]) == set(np.flatnonzero(kept))


@given(logits_lists, st.floats(0.01, 1.0), st.integers(0, 5), st.floats(0.0, 0.99))
def test_the_likeliest_token_survives_every_filter(
    logits: list[float], top_p: float, top_k: int, min_p: float
) -> None:
    sampling = replace(PLAIN, top_p=top_p, top_k=top_k, min_p=min_p)
    assert math.isfinite(filtered(mx.array(logits), sampling)[int(np.argmax(np.float32(logits)))].item())


def test_presence_penalty_counts_the_answer_once_and_the_prompt_never() -> None:
    logits, sampling = mx.zeros(4), replace(PLAIN, presence_penalty=1.5)
    actual = penalised(logits, sampling, marks([0, 1], 4), marks([1], 4))
    assert actual.tolist() == [0.0, -1.5, 0.0, 0.0]


def test_penalties_see_each_token_as_soon_as_it_is_drawn() -> None:
    sampler = Sampler(replace(PLAIN, temperature=0.0, presence_penalty=5.0), 3, [], seed=0)
    logits = mx.array([3.0, 2.0, 1.0])
    assert [sampler(logits).item() for _ in range(4)] == [0, 1, 2, 0]


def test_the_repetition_penalty_sees_the_prompt() -> None:
    sampler = Sampler(replace(PLAIN, temperature=0.0, repetition_penalty=2.0), 3, [0], seed=0)
    assert sampler(mx.array([3.0, 2.0, 1.0])).item() == 1


def test_a_temperature_next_to_nothing_is_greedy() -> None:
    sampler = Sampler(replace(PLAIN, temperature=1e-40), 3, [], seed=0)
    assert {sampler(mx.array([1.0, 1.5, 1.4])).item() for _ in range(20)} == {1}


def test_equal_seeds_draw_equal_tokens_and_others_do_not() -> None:
    logits = mx.random.normal((200,), key=mx.random.key(1))

    def drawn(seed: int | None) -> list[int]:
        sampler = Sampler(PLAIN, 200, [], seed)
        return [sampler(logits).item() for _ in range(20)]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)
    assert drawn(None) != drawn(None)


def test_frequencies_follow_the_distribution() -> None:
    logits, sampling = mx.array([2.0, 1.0, 0.0, -1.0, -3.0]), replace(PLAIN, temperature=0.8, top_p=0.95)
    sampler = Sampler(sampling, 5, [], seed=3)
    counts = np.bincount([sampler(logits).item() for _ in range(4000)], minlength=5)
    expected = np.array(mx.softmax(filtered(logits, sampling))) * 4000
    likely = expected > 0
    assert counts[~likely].sum() == 0
    chi_square = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    assert (
        chi_square < 16.3
    )  # 0.1 % of fair samplers exceed it, with three degrees of freedom; the seed is fixed


@settings(max_examples=20)
@given(st.integers(0, 2**64 - 1))
def test_every_seed_that_is_accepted_works(seed: int) -> None:
    GenerationConfig(seed=seed)
    assert Sampler(PLAIN, 3, [], seed)(mx.zeros(3)).item() in (0, 1, 2)


def test_the_models_own_values_stand_where_the_request_names_none() -> None:
    defaults = GenerationDefaults(temperature=0.6, top_k=20, top_p=0.95)
    settled = Sampling.settle(GenerationConfig(top_k=0), defaults)
    assert (settled.temperature, settled.top_k, settled.top_p) == (0.6, 0, 0.95)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_k": 2.5},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": 1.0},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
        {"presence_penalty": math.inf},
        {"seed": -1},
        {"seed": 2**64},
        {"max_tokens": 0},
        {"stop": ("",)},
    ],
    ids=str,
)
def test_absurd_values_are_refused_in_one_sentence(values: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        GenerationConfig(**values)  # pyright: ignore[reportArgumentType]
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
