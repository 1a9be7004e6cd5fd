"""Rotary position embedding of the first channels of a head (Su et al. 2021), plain or stretched by YaRN (Peng et al. 2023)."""

from __future__ import annotations

import math
from functools import lru_cache

import mlx.core as mx

from mlx_qnext.config import ModelConfig, RopeScaling


def rope(x: mx.array, config: ModelConfig, offset: int | mx.array) -> mx.array:
    """Rotate `x` `[B, H, T, D]` for positions `offset …`; the channels past the rotary part pass unchanged."""
    dims = config.rotary_dim
    scaling = config.rope_scaling
    if scaling is None or scaling.rope_type == "linear":
        scale = 1.0 if scaling is None else 1.0 / scaling.factor
        return mx.fast.rope(x, dims, traditional=False, base=config.rope_theta, scale=scale, offset=offset)
    wavelengths, magnitude = _yarn(dims, config.rope_theta, scaling)
    if magnitude != 1.0:
        x = mx.concatenate([x[..., :dims] * magnitude, x[..., dims:]], axis=-1)
    return mx.fast.rope(x, dims, traditional=False, base=None, scale=1.0, offset=offset, freqs=wavelengths)


@lru_cache(maxsize=4)
def _yarn(dims: int, theta: float, scaling: RopeScaling) -> tuple[mx.array, float]:
    """Inverse frequencies as MLX takes them, and the factor on rotated channels (`_compute_yarn_parameters`, transformers).

    Channels that turn often within the original context keep their frequency, slow ones are interpolated, between them a ramp.
    """
    original = scaling.original_max_position_embeddings

    def channel_of(turns: float) -> float:
        return dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = channel_of(scaling.beta_fast), channel_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    ramp = mx.clip((mx.arange(dims // 2) - low) / max(high - low, 0.001), 0, 1)
    plain = theta ** (-mx.arange(0, dims, 2) / dims)
    frequencies = plain / scaling.factor * ramp + plain * (1 - ramp)
    wavelengths = 1 / frequencies
    mx.eval(wavelengths)
    return wavelengths, _yarn_magnitude(scaling)


def _yarn_magnitude(scaling: RopeScaling) -> float:
    def growth(mscale: float) -> float:
        return 0.1 * mscale * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0

    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return growth(scaling.mscale) / growth(scaling.mscale_all_dim)
    return growth(1.0)
