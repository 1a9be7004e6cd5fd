"""What only Apple's GPU can show. Run with `pytest -n 0 -m metal` on a Mac; `docs/platforms.md` says what each test settles."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np
import pytest
from pooled import DEMO, pooled, resident
from tolerances import METAL_ATTENTION, METAL_RECURRENCE

import mlx_qnext
from mlx_qnext import Engine, GenerationConfig
from mlx_qnext.cache.kv import forked, held_arrays, kv_cache
from mlx_qnext.cache.shelves import Shelves
from mlx_qnext.experts.arrays import writes_are_seen
from mlx_qnext.generate.events import Finished
from mlx_qnext.model import stretch
from mlx_qnext.ops import attention as op
from mlx_qnext.ops.gated_delta import gated_delta, recurrent
from mlx_qnext.ops.gated_delta_prefixes import gated_delta_recorded, state_after
from quantize.evaluate import evaluate

pytestmark = [
    pytest.mark.metal,
    pytest.mark.skipif(not mx.metal.is_available(), reason="needs a Mac with Metal"),
]

SUM = [{"role": "user", "content": "What is 47 + 85?"}]
GREEDY = GenerationConfig(temperature=0.0, draft=0)


class Heads(NamedTuple):
    keys: int
    values: int
    dim: int


# The 80B model's, for which MLX has kernels; and the embedded model's, for which it has none.
HEADS = {"80B": Heads(16, 32, 128), "embedded": Heads(4, 8, 64)}
each_shape = pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS.keys())


@pytest.fixture(autouse=True, scope="module")
def on_the_gpu() -> Iterator[None]:
    device = mx.default_device()
    mx.set_default_device(mx.gpu)
    yield
    mx.set_default_device(device)


@pytest.fixture(scope="module")
def gpu_engine(on_the_gpu: None) -> Engine:
    return mlx_qnext.load("demo")


def random_inputs(heads: Heads, tokens: int, dtype: mx.Dtype = mx.float32) -> list[mx.array]:
    """Unit keys, queries of length D ** -0.5, moderate decays, a state that is not zero; all in `gated_delta`'s order."""
    keys = [mx.random.key(n) for n in range(6)]
    wide, per_head = (2, tokens, heads.keys, heads.dim), (2, tokens, heads.values)
    q, k = (unit(mx.random.normal(wide, key=key)) for key in keys[:2])
    v = mx.random.normal((*per_head, heads.dim), key=keys[2])
    state = mx.random.normal((2, heads.values, heads.dim, heads.dim), key=keys[5])
    log_decay = -mx.random.uniform(0, 0.5, per_head, key=keys[3])
    beta = mx.random.uniform(0, 1, per_head, key=keys[4])
    return [*(x.astype(dtype) for x in (q * heads.dim**-0.5, k, v)), log_decay, beta, state]


def unit(x: mx.array) -> mx.array:
    return x * mx.rsqrt((x * x).sum(-1, keepdims=True))


def check(actual: Sequence[mx.array], expected: Sequence[mx.array], mask: mx.array | None = None) -> None:
    """Output where the mask allows one, and state."""
    seen = mx.array(True) if mask is None else mask[..., None, None]
    for name, a, e in zip(("output", "state"), actual, expected, strict=True):
        a, e = (mx.where(seen, x, 0) if name == "output" else x for x in (a, e))
        METAL_RECURRENCE.check(*(np.array(x.astype(mx.float32)) for x in (a, e)), name)


@each_shape
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("tokens", [1, 2, 5, 9, 64, 65, 300])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "padded"])
def test_the_recurrence_on_metal_is_the_reference(
    heads: Heads, dtype: mx.Dtype, tokens: int, masked: bool
) -> None:
    inputs = random_inputs(heads, tokens, dtype)
    mask = mx.arange(tokens)[None] < mx.array([[tokens], [max(1, tokens // 2)]]) if masked else None
    check(gated_delta(*inputs, mask), recurrent(*inputs, mask), mask)


@each_shape
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["fp32", "bf16"])
def test_the_state_after_any_prefix_on_metal_is_the_references(heads: Heads, dtype: mx.Dtype) -> None:
    q, k, v, log_decay, beta, state = random_inputs(heads, 5, dtype)
    y, record = gated_delta_recorded(q, k, v, log_decay, beta, state)
    for count in range(1, 6):
        prefix = [x[:, :count] for x in (q, k, v, log_decay, beta)]
        check((y[:, :count], state_after(count, state, record)), recurrent(*prefix, state))


@each_shape
@pytest.mark.parametrize("tokens", [1, 64])
def test_a_decay_that_bf16_would_round_to_1_still_decays(heads: Heads, tokens: int) -> None:
    q, k, v, log_decay, beta, state = random_inputs(heads, tokens, mx.bfloat16)
    _, after = gated_delta(q, k, v, mx.full(log_decay.shape, -1e-3), mx.zeros_like(beta), state)
    forgotten = np.array(state - after)
    METAL_RECURRENCE.check(forgotten, np.array(state) * -np.expm1(-1e-3 * tokens), "what was forgotten")


@each_shape
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_a_prompt_is_never_unrolled_into_its_tokens(heads: Heads, padded: bool) -> None:
    tokens = 1024
    mask = mx.ones((2, tokens), dtype=mx.bool_) if padded else None
    graph = StringIO()
    mx.export_to_dot(graph, *gated_delta(*random_inputs(heads, tokens), mask))
    kernels = graph.getvalue().count("label =")
    assert kernels < tokens


def answer(engine: Engine, config: GenerationConfig = GREEDY) -> Finished:
    *_, last = engine.session().generate(SUM, config)
    assert isinstance(last, Finished)
    return last


def test_the_embedded_model_computes_in_half_precision_and_answers_right(gpu_engine: Engine) -> None:
    assert gpu_engine.model(mx.array([[11]])).dtype == mx.bfloat16
    assert "132" in answer(gpu_engine).text


def test_a_compiled_step_says_what_a_plain_one_says(
    gpu_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = answer(gpu_engine)
    monkeypatch.setattr(stretch, "_COMPILE_UP_TO_TOKENS", 0)
    plain = answer(gpu_engine)
    assert (compiled.thinking, compiled.text) == (plain.thinking, plain.text)


@pytest.mark.parametrize("draft", [1, 2, 3, 4])
def test_drafted_answers_are_right_and_drafts_stand(gpu_engine: Engine, draft: int) -> None:
    result = answer(gpu_engine, replace(GREEDY, draft=draft))
    assert "132" in result.text
    assert result.stats.mtp is not None
    assert result.stats.mtp.acceptance[0] > 0.8


def test_a_session_goes_on_from_its_snapshot(gpu_engine: Engine) -> None:
    session = gpu_engine.session()
    (*_, first), (*_, again) = (list(session.generate(SUM, GREEDY)) for _ in range(2))
    assert isinstance(first, Finished)
    assert isinstance(again, Finished)
    assert again.stats.cached_tokens > 0
    assert (again.thinking, again.text) == (first.thinking, first.text)


def test_loading_wires_the_memory_that_macos_recommends(gpu_engine: Engine) -> None:
    recommended = int(mx.device_info()["max_recommended_working_set_size"])
    assert 0 < recommended <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    planned = min(gpu_engine.plan.total_bytes, recommended)
    assert mx.set_wired_limit(planned) == planned


def test_an_evaluation_gives_back_the_memory_limit_and_a_small_loss(
    gpu_engine: Engine, bf16_checkpoint: Path
) -> None:
    limit_bytes = mx.set_memory_limit(1 << 40)
    mx.set_memory_limit(limit_bytes)
    documents = [[(7 * n + n * n) % 4000 for n in range(200)]]
    quality = evaluate(bf16_checkpoint, gpu_engine.path, documents)
    assert 0 < quality.kl < 0.5
    assert mx.set_memory_limit(limit_bytes) == limit_bytes


def test_what_is_written_into_an_arrays_memory_is_seen() -> None:
    assert writes_are_seen()


@pytest.mark.parametrize("slots", [4, 16, 31])
def test_streamed_experts_decode_as_resident_ones_to_the_bit(slots: int) -> None:
    plain = resident(DEMO)
    with pooled(DEMO, slots) as streamed:
        caches = [model.make_cache() for model in (plain, streamed.model)]
        for token in range(5, 29):
            expected, found = (
                model(mx.array([[token]]), cache)
                for model, cache in zip((plain, streamed.model), caches, strict=True)
            )
            assert mx.array_equal(expected, found)


def test_an_answer_from_streamed_experts_is_right(gpu_engine: Engine) -> None:
    with pooled(DEMO, 8) as streamed:
        few = dict.fromkeys(gpu_engine.plan.slots, 8)
        engine = replace(
            gpu_engine, model=streamed.model, store=streamed.store, plan=replace(gpu_engine.plan, slots=few)
        )
        *_, last = engine.session().generate(SUM, GREEDY)
        assert isinstance(last, Finished)
        assert "132" in last.text
        assert last.stats.experts is not None
        assert last.stats.experts.evicted > 0


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("T", [1, 2, 5, 64, 300])
def test_attention_in_blocks_is_attention_and_stays_small(
    bits: int | None, T: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    S, limit_bytes = 4096, 1 << 20
    shapes = ((1, 16, T, 256), (1, 2, S, 256), (1, 2, S, 256))
    q, k, v = (mx.random.normal(shape, mx.bfloat16, key=mx.random.key(n)) for n, shape in enumerate(shapes))
    cache = kv_cache(bits)
    held = cache.update_and_fetch(k, v)
    plain = held if bits is None else [mx.dequantize(*x, group_size=64, bits=bits) for x in held]
    mask = "causal" if T > 1 else None
    with mx.stream(mx.cpu):
        wide = [x.astype(mx.float32) for x in (q, *plain)]
        expected = np.array(mx.fast.scaled_dot_product_attention(*wide, scale=256**-0.5, mask=mask))
    monkeypatch.setattr(op, "MOST_SCORE_BYTES", limit_bytes)
    mx.eval(q, held_arrays(cache))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    output = op.attention(q, *held, mask, cache)
    mx.eval(output)
    peak_bytes = mx.get_peak_memory() - before
    METAL_ATTENTION.check(np.array(output.astype(mx.float32)), expected)
    unpacked_bytes = 0 if bits is None else 2 * (2 * S * 256 * 2)
    assert peak_bytes < 4 * limit_bytes + 4 * q.nbytes + unpacked_bytes


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_sequences_that_decode_together_attend_to_their_own(bits: int | None) -> None:
    lengths, expected = (3, 200, 300), []
    shelves = Shelves()
    q, k, v = (mx.random.normal((3, heads, 1, 256), mx.bfloat16) for heads in (16, 2, 2))
    for row, length in enumerate(lengths):
        cache = kv_cache(bits)
        cache.update_and_fetch(*(mx.random.normal((1, 2, length, 256), mx.bfloat16) for _ in range(2)))
        alone = forked(cache)
        shelves.add([cache])
        own = slice(row, row + 1)
        expected.append(op.attention(q[own], *alone.update_and_fetch(k[own], v[own]), None, alone))
    shelves.begin_step()
    attended = []
    for sequences, mask, rows in shelves.readings(0):
        asked = (q, k, v) if sequences is None else tuple(x[sequences] for x in (q, k, v))
        attended.append(op.attention(asked[0], *rows.update_and_fetch(*asked[1:]), mask, rows))
    actual = shelves.in_order(attended)
    METAL_ATTENTION.check(
        np.array(actual.astype(mx.float32)), np.array(mx.concatenate(expected).astype(mx.float32))
    )
