"""bf16 in numpy, which has no such type: the upper half of an fp32, held as uint16."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def from_bfloat16(halves: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The values, exactly."""
    bits = halves.astype(np.uint32)
    bits <<= np.uint32(16)
    return bits.view(np.float32)


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The nearest bf16, ties to even; what is not finite stays so."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    # Rounding up would carry a NaN's payload into its sign.
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)
