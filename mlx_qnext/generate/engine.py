"""What is loaded and never changes: model, tokenizer, defaults. Sessions run on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.config import ModelConfig
from mlx_qnext.generate.session import Session
from mlx_qnext.generation_defaults import GenerationDefaults
from mlx_qnext.hub import resolve
from mlx_qnext.model.loading import build_model
from mlx_qnext.model.memory import check_fits
from mlx_qnext.model.qwen3_next import Model
from mlx_qnext.ops.device import Backend, backend
from mlx_qnext.tokenizer import Tokenizer


@dataclass(frozen=True)
class Engine:
    """A loaded model; any number of sessions share it, one generating at a time.

    Attributes:
        path: the folder it was loaded from.
        defaults: what the model's publisher recommends for sampling.
    """

    path: Path
    config: ModelConfig
    model: Model
    tokenizer: Tokenizer
    defaults: GenerationDefaults

    def session(self) -> Session:
        """A session that remembers nothing yet."""
        return Session(self)


def load(
    model: str | Path,
    *,
    on_download: Callable[[int, int], None] | None = None,
    on_layer: Callable[[int, int], None] | None = None,
) -> Engine:
    """Load a folder, a hub repository or an alias; what can fail without reading weights fails first.

    Args:
        on_download: called with bytes done and total. on_layer: called with layers done and total.

    Raises:
        QnextError: the model cannot be found, is damaged, or is of a kind that this program does not run.
    """
    folder = resolve(str(model), on_download)
    checkpoint = Checkpoint.open(folder)
    config = ModelConfig.from_dict(checkpoint.config)
    defaults = GenerationDefaults.from_folder(folder)
    eos_ids = defaults.eos_token_ids + config.eos_token_ids
    tokenizer = Tokenizer.from_folder(folder, eos_ids, config.vocab_size)
    check_fits(checkpoint)
    _wire_memory()
    network, config = build_model(checkpoint, on_layer)
    return Engine(folder, config, network, tokenizer, defaults)


def _wire_memory() -> None:
    """Let Metal keep the weights resident; otherwise macOS may page them out between two answers."""
    if backend() is Backend.METAL:
        mx.set_wired_limit(int(mx.device_info()["max_recommended_working_set_size"]))
