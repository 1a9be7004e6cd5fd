"""From `--model` to an engine, with progress where it takes long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from cli.options import MODEL_VARIABLE, Room
from cli.terminal import note
from cli.views.progress import Progress

if TYPE_CHECKING:
    from mlx_qnext import Engine

EMBEDDED = "demo"
EMBEDDED_NOTE = (
    "No model was named, so this is the embedded one: a very small model trained on synthetic problems, to try "
    f"everything offline. For the real one: --model thinking-4bit, or set {MODEL_VARIABLE}."
)


def check_model(model: str, err: Console) -> None:
    """This model is here, and nothing that can be seen before its weights are read keeps it from being loaded.

    Raises:
        QnextError: as `mlx_qnext.load`.
    """
    from mlx_qnext.checkpoint import Checkpoint
    from mlx_qnext.config import ModelConfig
    from mlx_qnext.generation_defaults import GenerationDefaults
    from mlx_qnext.hub import resolve
    from mlx_qnext.model.loading import check_complete
    from mlx_qnext.tokenizer import Tokenizer

    with Progress(err, "Downloading", "bytes") as download:
        folder = resolve(model, download.update)
    checkpoint = Checkpoint.open(folder)
    config = ModelConfig.from_dict(checkpoint.config)
    GenerationDefaults.from_folder(folder)
    Tokenizer.from_folder(folder, vocab_size=config.vocab_size)
    check_complete(checkpoint)


def load_engine(model: str | None, err: Console, room: Room) -> Engine:
    """The engine of the model named, or of the embedded one, which is said.

    Raises:
        QnextError: as `mlx_qnext.load`.
    """
    if model is None:
        note(err, EMBEDDED_NOTE)
    import mlx_qnext

    with (
        Progress(err, "Downloading", "bytes") as download,
        Progress(err, "Loading layers", "count") as layers,
    ):

        def on_layer(done: int, total: int) -> None:
            download.close()
            layers.update(done, total)

        return mlx_qnext.load(
            model or EMBEDDED,
            memory_bytes=room.memory_bytes,
            context_tokens=room.context_tokens,
            kv_bits=room.kv_bits,
            on_download=download.update,
            on_layer=on_layer,
        )
