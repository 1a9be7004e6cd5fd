"""Positions far beyond the trained context are turned as YaRN says."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from builders import TINY
from reference.rotary import rotate
from tolerances import FAR_ROTARY

from mlx_qnext.config import ModelConfig
from mlx_qnext.ops.rope import rope

# As the 80B model's card asks for a million tokens.
STRETCHED = TINY | {
    "head_dim": 256,
    "rope_theta": 1e7,
    "max_position_embeddings": 262144,
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 262144},
}


@pytest.mark.parametrize("position", [0, 262_143, 262_144, 300_000])
def test_yarn_reaches_beyond_the_trained_context(position: int) -> None:
    x = mx.random.normal((1, 2, 1, 256), key=mx.random.key(position))
    turned = np.array(rope(x, ModelConfig.from_dict(STRETCHED), position))
    FAR_ROTARY.check(turned, rotate(np.array(x, np.float64), position, STRETCHED))
