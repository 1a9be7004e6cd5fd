"""`qnext inspect`: what a model's folder holds, from its headers alone."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from cli import terminal
from cli.loading import EMBEDDED
from cli.options import MODEL_VARIABLE
from cli.views.inspection import inspection
from cli.views.progress import Progress


def inspect(
    model: Annotated[
        str, typer.Argument(envvar=MODEL_VARIABLE, help="A folder, a hub repository, or an alias.")
    ] = EMBEDDED,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Show what a model is and holds. No weights are read."""
    facts = _facts(model)
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
    else:
        terminal.out().print(inspection(facts))


def _facts(model: str) -> dict[str, Any]:
    from mlx_qnext.checkpoint import Checkpoint
    from mlx_qnext.config import ModelConfig
    from mlx_qnext.hub import resolve
    from mlx_qnext.sizes import bytes_by_part, count_parameters, precisions_by_part

    with Progress(terminal.err(), "Downloading", "bytes") as download:
        folder = resolve(model, download.update)
    checkpoint = Checkpoint.open(folder)
    config = ModelConfig.from_dict(checkpoint.config)
    parameters, sizes = count_parameters(checkpoint, config), bytes_by_part(checkpoint)
    return {
        "path": str(folder),
        "architecture": config.model_type,
        "layers": config.num_hidden_layers,
        "context": config.max_position_embeddings,
        "parameters": {"total": parameters.total, "active": parameters.active},
        "bytes": {"total": sum(sizes.values()), **sizes},
        "quantization": {part: list(labels) for part, labels in precisions_by_part(checkpoint).items()},
        "mtp": checkpoint.has_mtp,
    }
