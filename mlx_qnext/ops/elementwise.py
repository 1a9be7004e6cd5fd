"""The elementwise pieces of the network, each one kernel on a GPU.

They are written out in primitives: `mlx.nn`'s own activations are always compiled, which on the CPU needs a C++ compiler at
run time.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_qnext.ops.device import fused


@fused
def silu(x: mx.array) -> mx.array:
    """x · sigmoid(x)."""
    return x * mx.sigmoid(x)


@fused
def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) · up (Shazeer 2020, arXiv 2002.05202)."""
    return gate * mx.sigmoid(gate) * up


@fused
def gated(x: mx.array, gate: mx.array) -> mx.array:
    """x · sigmoid(gate)."""
    return x * mx.sigmoid(gate)


@fused
def gated_norm_output(normed: mx.array, gate: mx.array) -> mx.array:
    """normed · silu(gate), multiplied in fp32 and rounded once to the gate's dtype."""
    wide = gate.astype(mx.float32)
    return (normed.astype(mx.float32) * wide * mx.sigmoid(wide)).astype(gate.dtype)


@fused
def log_decay(a: mx.array, dt_bias: mx.array, rate: mx.array) -> mx.array:
    """-rate · softplus(a + dt_bias) in fp32, the log of the gated delta rule's decay; rate = exp(A_log)."""
    return -rate * mx.logaddexp(a.astype(mx.float32) + dt_bias, mx.array(0.0))


@fused
def weighted(x: mx.array, weights: mx.array) -> mx.array:
    """x · weights with the weights broadcast over x's last axis, in fp32."""
    return x.astype(mx.float32) * weights[..., None]
