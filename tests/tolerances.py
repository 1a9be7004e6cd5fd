"""The one table of numeric tolerances. Every row says what is compared and why the bound is what it is.

Changing a row needs a reason, written here. `max_abs` rows bound the largest absolute difference, `rel_rms` rows the root mean
square of the difference over that of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Tolerance:
    """A bound on how far `actual` may lie from `expected`."""

    kind: Literal["max_abs", "rel_rms"]
    bound: float

    def error(self, actual: np.ndarray, expected: np.ndarray) -> float:
        """The measured error; infinite where shapes differ or a value is not finite."""
        if np.shape(actual) != np.shape(expected):
            return float("inf")
        difference = np.asarray(actual, np.float64) - np.asarray(expected, np.float64)
        if not np.isfinite(difference).all():
            return float("inf")
        if self.kind == "max_abs":
            return float(abs(difference).max(initial=0.0))
        scale = np.sqrt(np.mean(np.square(expected, dtype=np.float64)))
        return float(np.sqrt(np.mean(difference**2)) / max(scale, 1e-12))

    def check(self, actual: np.ndarray, expected: np.ndarray, what: str = "") -> None:
        """Fail, saying the error and the bound, where `actual` is too far from `expected`."""
        error = self.error(actual, expected)
        assert error <= self.bound, f"{what or 'difference'}: {self.kind} {error:.3g} > {self.bound:g}"


# Logits and hidden states against transformers in fp32. Rounding alone moves transformers by up to 3e-6 from fp64 on these
# models (the generator draws again beyond that), and ours about as far: 1e-5 leaves room for both and for no real mistake.
TRANSFORMERS_FP32 = Tolerance("max_abs", 1e-5)

# Logits against mlx-lm in fp32, on the same weights: the same two roundings.
MLX_LM_FP32 = Tolerance("max_abs", 1e-5)

# The MTP head against the numpy and the torch reference: one layer, fed with hidden states that carry the trunk's rounding.
MTP = Tolerance("max_abs", 1e-5)

# Two ways through the same fp32 model that multiply matrices of other shapes: prefill in chunks, token by token, in a batch.
# Each sums in another order, so twice the room of one comparison would be fair; it is not needed.
CONTINUED = Tolerance("max_abs", 1e-5)

# The same on the embedded model, whose logits reach 20 where those of random models reach 1.
CONTINUED_TRAINED = Tolerance("max_abs", 1e-4)

# The same with keys and values at 8 or 4 bits: one that lies between two steps may be rounded to either, which moves logits by
# up to 2e-3 of 20. An entry too many or too few moves them by 1 and more.
CONTINUED_QUANTIZED = Tolerance("max_abs", 0.05)

# The recurrence in plain fp32 ops against fp64: rounding of the state (1.2e-7 a step) that nothing forgets, where 500 keys are
# equal and nothing decays, reaches 1e-6; elsewhere it stays below 5e-7.
RECURRENT_FP32 = Tolerance("rel_rms", 2e-6)

# The chunked form in fp32 against fp64, whatever the keys and the decay: matmuls over a chunk and a triangular inverse come to
# 9e-7. Decays taken as differences of running sums would come to 1e-5 and more where weak ones follow strong ones.
CHUNKED_FP32 = Tolerance("rel_rms", 2e-6)

# A quantised module against the same arithmetic on its dequantised weights in fp32: only the order of summation differs.
QUANTIZED_VS_DEQUANTIZED = Tolerance("rel_rms", 1e-5)

# Probabilities against transformers' processors: softmax in fp32 both times, and vectors written with seven digits.
SAMPLING = Tolerance("max_abs", 1e-6)

# Joint probabilities of up to four tokens, enumerated: products of fp32 softmaxes, 1e-7 each, on both sides.
ENUMERATED = Tolerance("max_abs", 2e-6)

# Metal's kernels against the plain recurrence on the same GPU, in fp32: chunked forms multiply in tiles of reduced precision.
METAL_RECURRENCE = Tolerance("rel_rms", 5e-3)

# Figures of an evaluation layer by layer against those of whole models: batches sum in another order than single documents do,
# and log-probabilities move by up to 1e-4, as above, beside a divergence of 0.2 in the tail. A position more or less would move
# each figure by per cents.
EVALUATED = Tolerance("rel_rms", 1e-3)

# Attention on Metal in bf16 against fp32 on the same inputs: scores and weights are rounded to 8 bits on the way. CUDA comes to
# 4.5e-3.
METAL_ATTENTION = Tolerance("rel_rms", 2e-2)

# Rotation in fp32 against fp64 at position 300,000: angles are rounded to 0.03 rad, here and in transformers.
FAR_ROTARY = Tolerance("max_abs", 0.05)
