"""A decode step runs few, large kernels: counted on the graph of a model with as many layers as the real one."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from tolerances import MLX_LM_FP32

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from synthetic import FULL_SHAPE, SyntheticCheckpoint

from mlx_qnext.model.loading import build_model
from mlx_qnext.model.qwen3_next import Model

# 48 layers of the real pattern, each narrow.
NARROW = FULL_SHAPE | {
    "vocab_size": 256,
    "hidden_size": 64,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "head_dim": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}
PRODUCTS = ("QuantizedMatmul", "GatherQMM", "GatherMM", "Matmul", "AddMM")


@pytest.fixture(scope="module")
def model() -> Model:
    return build_model(SyntheticCheckpoint.make(NARROW))[0]


def step_kernels(model: Callable[..., mx.array]) -> Counter[str]:
    """Primitives by name in the graph of one decode step over a filled cache."""
    return kernels(model(mx.array([[4]]), filled_cache(model)))


def filled_cache(model: Callable[..., mx.array]) -> list[Any]:
    cache = model.make_cache()  # pyright: ignore[reportFunctionMemberAccess]
    mx.eval(model(mx.array([[1, 2, 3]]), cache))
    for layer in cache:
        mx.eval(layer.state)
    return cache


def kernels(*outputs: mx.array) -> Counter[str]:
    """Primitives by name in the graph of these arrays."""
    text = StringIO()
    mx.export_to_dot(text, *outputs)
    return Counter(re.findall(r'label ="(\w+)"', text.getvalue()))


def products(kernels: Counter[str]) -> int:
    return sum(kernels[name] for name in PRODUCTS)


def mlx_lm_model() -> Callable[..., mx.array]:
    from mlx import nn
    from mlx_lm.models import qwen3_next

    checkpoint = SyntheticCheckpoint.make(NARROW)
    peer = qwen3_next.Model(qwen3_next.ModelArgs.from_dict(NARROW))
    settings = checkpoint.config["quantization"]
    assert isinstance(settings, dict)
    nn.quantize(
        peer,
        64,
        4,
        class_predicate=lambda path, module: hasattr(module, "to_quantized") and settings.get(path, True),
    )
    peer.load_weights(list(checkpoint.arrays(checkpoint.tensors).items()))
    peer.set_dtype(mx.float32)
    return peer


@pytest.mark.slow
def test_a_step_of_48_layers_takes_at_most_300_products_and_far_fewer_than_mlx_lm(model: Model) -> None:
    own, peer = step_kernels(model), step_kernels(mlx_lm_model())
    assert products(own) <= 300
    assert products(own) < 0.6 * products(peer)


@pytest.mark.slow
def test_fused_weights_give_the_logits_that_mlx_lm_gives_with_separate_ones(model: Model) -> None:
    tokens = mx.array([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]])
    MLX_LM_FP32.check(np.array(model(tokens)), np.array(mlx_lm_model()(tokens)), "logits")


def test_every_layer_is_three_products_for_its_experts_and_two_for_its_mixer(model: Model) -> None:
    kernels = step_kernels(model)
    layers = len(model.layers)
    assert kernels["GatherQMM"] == 2 * layers
    assert (
        kernels["QuantizedMatmul"] == 3 * layers + 1
    )  # router, in and out of the mixer; and the output head


def test_compiled_stretches_leave_far_fewer_kernels_than_the_plain_graph(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_qnext.model import stretch
    from mlx_qnext.ops.device import Backend

    plain = sum(step_kernels(model).values())
    cache = filled_cache(model)
    monkeypatch.setattr(stretch, "backend", lambda: Backend.CUDA)
    assert sum(kernels(model(mx.array([[4]]), cache)).values()) < 0.75 * plain


def test_verifying_five_tokens_takes_hardly_more_kernels_than_two(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_qnext.model import stretch
    from mlx_qnext.ops.device import Backend

    # Filled before: what is evaluated after would be fused by a C++ compiler, which takes long; graphs alone are counted here.
    caches = {tokens: filled_cache(model) for tokens in (1, 2, 5)}
    monkeypatch.setattr(stretch, "backend", lambda: Backend.CUDA)
    counts = []
    for tokens in (2, 5):
        hidden, _ = model.verify(mx.array([[4] * tokens]), caches[tokens])
        counts.append(sum(kernels(model.logits(hidden)).values()))
    one = sum(kernels(model(mx.array([[4]]), caches[1])).values())
    assert counts[0] < 1.35 * one
    assert counts[1] < 1.05 * counts[0]


def test_keeping_a_prefix_multiplies_by_no_weight(model: Model) -> None:
    cache = filled_cache(model)
    hidden, verification = model.verify(mx.array([[4, 5, 6]]), cache)
    mx.eval(hidden)
    verification.keep(2)
    states = [array for layer in cache if hasattr(layer, "cache") for array in layer.cache]
    assert products(kernels(*states)) == sum(
        hasattr(layer, "cache") for layer in cache
    )  # one plain Matmul each
