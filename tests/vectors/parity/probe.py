"""What the generator measures beside the goldens: whether a case exercises what it claims, and whether mlx-lm agrees."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from mlx_lm.utils import load_model
from transformers.models.qwen3_next import modeling_qwen3_next as modeling


class Probe:
    """While open, watches every router and every call of the gated delta rule in `modules`."""

    def __init__(self, modules: list[torch.nn.Module]):
        self._modules = modules
        self._hooks: list[Any] = []
        self._rule = modeling.torch_chunk_gated_delta_rule
        self.router_gap = float("inf")
        self._log_decay: list[np.ndarray] = []
        self._beta: list[np.ndarray] = []
        self._key_cosine: list[float] = []

    def __enter__(self) -> Probe:
        routers = [
            m for top in self._modules for m in top.modules() if isinstance(m, modeling.Qwen3NextTopKRouter)
        ]
        self._hooks = [router.register_forward_hook(self._see_router) for router in routers]
        modeling.torch_chunk_gated_delta_rule = self._see_rule
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        modeling.torch_chunk_gated_delta_rule = self._rule
        for hook in self._hooks:
            hook.remove()

    def summary(self) -> dict[str, Any]:
        decay, beta = np.concatenate(self._log_decay), np.concatenate(self._beta)
        return {
            "min_router_logit_gap": None if np.isinf(self.router_gap) else _rounded(self.router_gap),
            "log_decay": [_rounded(decay.min()), _rounded(decay.max())],
            "beta": [_rounded(beta.min()), _rounded(beta.max())],
            "mean_key_cosine": _rounded(float(np.mean(self._key_cosine))) if self._key_cosine else None,
        }

    def _see_router(self, router: torch.nn.Module, inputs: Any, outputs: Any) -> None:
        if router.top_k < router.num_experts:
            logits = outputs[0].sort(dim=-1, descending=True).values
            gap = (logits[:, router.top_k - 1] - logits[:, router.top_k]).min().item()
            self.router_gap = min(self.router_gap, gap)

    def _see_rule(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs: Any) -> Any:
        self._log_decay.append(kwargs["g"].flatten().numpy())
        self._beta.append(kwargs["beta"].flatten().numpy())
        unit = torch.nn.functional.normalize(key, dim=-1)
        if key.shape[1] > 1:
            self._key_cosine.append((unit[:, 1:] * unit[:, :-1]).sum(-1).mean().item())
        return self._rule(query, key, value, **kwargs)


def mlx_lm_difference(
    folder: Path, vectors: dict[str, np.ndarray], lengths: tuple[int, ...]
) -> dict[str, Any]:
    """Largest absolute difference of mlx-lm's logits from the goldens, or why mlx-lm does not load the checkpoint."""
    try:
        model, _ = load_model(folder)
    except Exception as error:
        return {"refuses": f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"}
    worst = 0.0
    for length in lengths:
        logits = np.array(model(mx.array(vectors[f"tokens.{length}"])[None])[0])
        worst = max(worst, float(abs(logits - vectors[f"logits.{length}"]).max()))
    return {"max_abs_diff": _rounded(worst)}


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
