"""What mlx-lm makes of a folder, in fp32 throughout, so that its logits can be held against ours."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np


def mlx_lm_logits(folder: Path, tokens: mx.array) -> np.ndarray:
    """Logits `[B, T, vocab]` of mlx-lm's own loader and model; packed weights stay packed."""
    from mlx_lm.utils import load_model

    model, _ = load_model(folder)
    model.set_dtype(mx.float32)
    # Its compiled activations would need a C++ compiler on the CPU.
    mx.disable_compile()
    try:
        return np.array(model(tokens))
    finally:
        mx.enable_compile()
