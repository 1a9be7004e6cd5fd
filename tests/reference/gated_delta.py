"""The gated delta rule in numpy fp64, token by token (Yang et al. 2024, "Gated Delta Networks", arXiv 2412.06464, eq. 10)."""

from __future__ import annotations

import numpy as np


def gated_delta_reference(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    log_decay: np.ndarray,
    beta: np.ndarray,
    state: np.ndarray,
    mask: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """S_t = a_t S_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T and y_t = S_t q_t, literally.

    q, k [B, T, Hk, Dk], normalised, with Dk ** -0.5 folded into q; v [B, T, Hv, Dv]; log_decay = log a and beta
    [B, T, Hv]; state [B, Hv, Dv, Dk]; mask [B, T], False where a token is padding, which leaves the state alone.
    Returns y [B, T, Hv, Dv], 0 at padding, and the last state, both fp64.
    """
    q, k, v, log_decay, beta = (x.astype(np.float64) for x in (q, k, v, log_decay, beta))
    batch, tokens, heads, _ = v.shape
    group = heads // k.shape[2]
    states, y = state.astype(np.float64), np.zeros(v.shape)
    for b in range(batch):
        for h in range(heads):
            S = states[b, h]
            for t in range(tokens):
                if mask is not None and not mask[b, t]:
                    continue
                key, rate = k[b, t, h // group], beta[b, t, h]
                erase = np.eye(len(key)) - rate * np.outer(key, key)
                S = np.exp(log_decay[b, t, h]) * S @ erase + rate * np.outer(v[b, t, h], key)
                y[b, t, h] = S @ q[b, t, h // group]
            states[b, h] = S
    return y, states
