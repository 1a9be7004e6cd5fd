"""transformers' model in fp64 throughout: how far rounding alone moves the fp32 goldens."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import Qwen3NextForCausalLM


def logits_in_double(model: Qwen3NextForCausalLM, tokens: np.ndarray) -> np.ndarray:
    """fp64 logits [T, V] of one sequence; `model` keeps its precision."""
    with _no_casts_to_single():
        return (
            copy.deepcopy(model)
            .double()(input_ids=torch.from_numpy(tokens)[None].long(), use_cache=False)
            .logits[0]
            .numpy()
        )


@contextlib.contextmanager
def _no_casts_to_single() -> Iterator[None]:
    """The model's own casts to fp32 (norms, router, recurrence, rotary) become casts to fp64."""
    to, softmax = torch.Tensor.to, torch.nn.functional.softmax

    def to_double(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return to(tensor, *(torch.float64 if arg is torch.float32 else arg for arg in args), **kwargs)

    def softmax_double(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return softmax(x, dim=dim)

    with (
        mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
        mock.patch.object(torch.Tensor, "to", to_double),
        mock.patch.object(torch.nn.functional, "softmax", softmax_double),
    ):
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)
