"""Which back end computes, and what follows from it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import Enum
from typing import ParamSpec, TypeVar

import mlx.core as mx

P = ParamSpec("P")
R = TypeVar("R")


class Backend(Enum):
    """MLX's back ends."""

    CPU = "cpu"
    METAL = "metal"
    CUDA = "cuda"


def backend() -> Backend:
    """The back end of the default device."""
    if mx.default_device() == mx.Device(mx.cpu):
        return Backend.CPU
    return Backend.METAL if mx.metal.is_available() else Backend.CUDA


def compute_dtype(stored: mx.Dtype) -> mx.Dtype:
    """The dtype of activations for weights stored in `stored`.

    On the CPU it is fp32, whatever is stored: MLX's half-precision kernels there are 10 to 40 times slower.
    """
    return mx.float32 if backend() is Backend.CPU else stored


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """Run a pure elementwise function as one kernel on a GPU; on the CPU run it as written.

    MLX fuses on the CPU by calling a C++ compiler when the program runs, which a user's machine need not have. Not `shapeless`:
    that fuses broadcasts too, into kernels that nothing else shares, and on CUDA each distinct kernel takes seconds to build.
    """
    compiled = mx.compile(function)

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return (function if backend() is Backend.CPU else compiled)(*args, **kwargs)

    return run
