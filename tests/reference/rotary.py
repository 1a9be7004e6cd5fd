"""Rotary frequencies from either spelling of the config, in numpy (Su et al. 2021; YaRN: Peng et al. 2023)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def rotary_parameters(config: dict[str, Any]) -> dict[str, Any]:
    """One flat dict, whichever way the config spells it: `rope_theta`, `partial_rotary_factor` and the scaling's own keys."""
    parameters = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    parameters.setdefault("rope_theta", config.get("rope_theta", 10_000.0))
    parameters.setdefault("partial_rotary_factor", config.get("partial_rotary_factor", 0.25))
    parameters.setdefault("rope_type", parameters.get("type", "default"))
    return parameters


def rotary_frequencies(config: dict[str, Any]) -> tuple[np.ndarray, float]:
    """Radians a position for every rotated pair, fp64 [rotary_dim / 2], and the factor on cos and sin."""
    parameters = rotary_parameters(config)
    base, dim = parameters["rope_theta"], int(config["head_dim"] * parameters["partial_rotary_factor"])
    plain = np.array([base ** (-2 * i / dim) for i in range(dim // 2)])
    if parameters["rope_type"] == "default":
        return plain, 1.0
    assert parameters["rope_type"] == "yarn", parameters
    factor, context = parameters["factor"], parameters["original_max_position_embeddings"]
    # The pairs that turn more than beta_fast times in the trained context stay; fewer than beta_slow: stretched.
    low = _pair_that_turns(parameters.get("beta_fast") or 32, context, base, dim)
    high = _pair_that_turns(parameters.get("beta_slow") or 1, context, base, dim)
    low, high = max(math.floor(low), 0), min(math.ceil(high), dim - 1)
    stretched = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0, 1)
    attention_factor = parameters.get("attention_factor") or 0.1 * math.log(factor) + 1
    return plain * (1 - stretched) + plain / factor * stretched, attention_factor


def rotate(x: np.ndarray, position: int, config: dict[str, Any]) -> np.ndarray:
    """The vectors [..., head_dim] at `position`: pair (i, i + rotary_dim / 2) turns, what lies behind rotary_dim stays."""
    frequencies, factor = rotary_frequencies(config)
    half = len(frequencies)
    cos, sin = factor * np.cos(position * frequencies), factor * np.sin(position * frequencies)
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def _pair_that_turns(times: float, context: int, base: float, dim: int) -> float:
    """The (fractional) index of the pair that turns `times` times within `context` positions."""
    return dim * math.log(context / (times * 2 * math.pi)) / (2 * math.log(base))
