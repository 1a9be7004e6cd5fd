"""Whether a checkpoint's weights can be held at all, asked before any of them is read."""

from __future__ import annotations

import os

import mlx.core as mx

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.errors import MemoryLimitError
from mlx_qnext.ops.device import Backend, backend

_HALF_PRECISION = ("BF16", "F16")


def check_fits(checkpoint: Checkpoint) -> None:
    """Return where the weights fit the memory that the device may use.

    Raises:
        MemoryLimitError: they do not; the sentence has both sizes.
    """
    needed, limit = weight_bytes(checkpoint), device_limit_bytes()
    if needed > limit:
        raise MemoryLimitError(
            f"The weights in {checkpoint.folder} take {needed / 1e9:.1f} GB of memory and this machine has "
            f"{limit / 1e9:.1f} GB for them: choose a model at fewer bits."
        )


def weight_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of all weights once loaded; half-precision ones double on the CPU, which computes in fp32."""
    widened = 2 if backend() is Backend.CPU else 1
    return sum(
        (tensor.end - tensor.start) * (widened if tensor.dtype in _HALF_PRECISION else 1)
        for tensor in checkpoint.tensors.values()
    )


def device_limit_bytes() -> int:
    """Bytes that weights can take: what Metal recommends at most, a GPU's memory, or the machine's."""
    info = mx.device_info()
    if backend() is Backend.METAL:
        return int(info["max_recommended_working_set_size"])
    if backend() is Backend.CUDA:
        return int(info["total_memory"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
