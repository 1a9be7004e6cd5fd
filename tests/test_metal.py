"""What only Apple's GPU can show. Run with `pytest -m metal` on a Mac."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from tolerances import METAL_RECURRENCE

from mlx_qnext import Engine, GenerationConfig
from mlx_qnext.generate.events import Finished
from mlx_qnext.model import trunk
from mlx_qnext.ops.gated_delta import gated_delta, recurrent

pytestmark = [
    pytest.mark.metal,
    pytest.mark.skipif(not mx.metal.is_available(), reason="needs Metal"),
]


@pytest.mark.parametrize("tokens", [1, 2, 5, 64, 65, 300])
@pytest.mark.parametrize("masked", [False, True])
def test_the_metal_recurrence_is_the_reference(tokens: int, masked: bool) -> None:
    keys = [mx.random.key(n) for n in range(6)]
    q, k = (mx.random.normal((2, tokens, 4, 128), key=key) * 128**-0.5 for key in keys[:2])
    v = mx.random.normal((2, tokens, 8, 128), key=keys[2])
    log_decay = -mx.random.uniform(0, 0.5, (2, tokens, 8), key=keys[3])
    beta = mx.random.uniform(0, 1, (2, tokens, 8), key=keys[4])
    state = mx.random.normal((2, 8, 128, 128), key=keys[5])
    mask = mx.arange(tokens)[None] < mx.array([[tokens], [max(1, tokens // 2)]]) if masked else None
    y, after = gated_delta(q, k, v, log_decay, beta, state, mask)
    expected_y, expected_after = recurrent(q, k, v, log_decay, beta, state, mask)
    METAL_RECURRENCE.check(np.array(after), np.array(expected_after), "state")
    if not masked:
        METAL_RECURRENCE.check(np.array(y), np.array(expected_y), "output")


def test_a_compiled_step_gives_the_logits_of_a_plain_one(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = mx.array([[11, 12, 13, 14]])
    compiled = np.array(engine.model(tokens).astype(mx.float32))
    monkeypatch.setattr(trunk, "_COMPILE_UP_TO_TOKENS", 0)
    plain = np.array(engine.model(tokens).astype(mx.float32))
    assert (compiled.argmax(-1) == plain.argmax(-1)).all()


def test_the_embedded_model_answers_on_the_gpu(engine: Engine) -> None:
    messages = [{"role": "user", "content": "What is 47 + 85?"}]
    *_, last = engine.session().generate(messages, GenerationConfig(temperature=0.0))
    assert isinstance(last, Finished)
    assert "132" in last.text
