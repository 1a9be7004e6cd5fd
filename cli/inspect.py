"""`qnext inspect`: what a model holds, from its headers alone."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import terminal
from cli.forecast import measured_forecast, recalled_forecast
from cli.loading import EMBEDDED
from cli.options import MODEL_VARIABLE, Context, KvBits, Memory, Room, room
from cli.plan import machine_facts, plan_facts
from cli.routing import visits_of
from cli.shell_completion import complete_model
from cli.views.inspection import inspection
from cli.views.progress import Progress
from mlx_qnext.errors import UsageError

if TYPE_CHECKING:
    from mlx_qnext.checkpoint import Checkpoint
    from mlx_qnext.hub import Repository

_HUB = "hf://"


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            envvar=MODEL_VARIABLE,
            autocompletion=complete_model,
            help="A folder, a hub repository, or an alias.",
        ),
    ] = EMBEDDED,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read what `qnext quantize` made, and compare it with its manifest."),
    ] = False,
    routing: Annotated[
        str | None,
        typer.Option(
            "--routing", metavar="<file>", help="Draw which experts this prompt visits instead; - is stdin."
        ),
    ] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="<file>", help="Draw --routing in this file too.")
    ] = None,
    forecast: Annotated[
        bool,
        typer.Option(
            "--forecast", help="Measure how fast the model will decode within --memory; it is loaded for it."
        ),
    ] = False,
    memory: Memory = "auto",
    context: Context = "auto",
    kv_bits: KvBits = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Show what a model is and holds. No weights are downloaded and none are read, except by --verify, --routing and
    --forecast."""
    if svg is not None and routing is None:
        raise UsageError("--svg draws what --routing counts: name a prompt too, with --routing FILE.")
    if verify and routing is not None:
        raise UsageError("--verify and --routing answer two questions: give one of them.")
    if forecast and routing is not None:
        raise UsageError("--forecast and --routing answer two questions: give one of them.")
    given = room(memory, context, kv_bits)
    if routing is not None and not as_json:
        visits_of(model, routing, svg, given).show()
        return
    facts = _facts(model, given)
    if verify:
        facts["verified"] = _verified(facts["path"])
    if forecast:
        facts["forecast"] = measured_forecast(model, given)
    if routing is not None:
        facts["routing"] = visits_of(model, routing, svg, given).facts()
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
    else:
        terminal.out().print(inspection(facts))


def _facts(model: str, given: Room) -> dict[str, Any]:
    from mlx_qnext.config import ModelConfig
    from mlx_qnext.sizes import bytes_by_part, count_parameters, precisions_by_part

    path, checkpoint = _open(model)
    config = ModelConfig.from_dict(checkpoint.config)
    plan = plan_facts(checkpoint, config, given)
    parameters, sizes = count_parameters(checkpoint, config), bytes_by_part(checkpoint)
    return {
        "path": path,
        "architecture": config.model_type,
        "layers": config.num_hidden_layers,
        "context": config.context_limit,
        "parameters": {"total": parameters.total, "active": parameters.active},
        "bytes": {"total": sum(sizes.values()), **sizes},
        "quantization": {part: list(labels) for part, labels in precisions_by_part(checkpoint).items()},
        "mtp": checkpoint.has_mtp,
        "machine": machine_facts(),
        "plan": plan,
        "forecast": recalled_forecast(checkpoint, plan["share"]) if plan and plan["fits"] else None,
        **_made_by(path),
    }


def _verified(path: str) -> int:
    """The number of tensors that are what they were when they were made.

    Raises:
        UsageError: the model is not on this disk, or was not made by this program. CheckpointError: something changed.
    """
    from quantize.manifest import verify

    if path.startswith(_HUB):
        raise UsageError(f"{path} is not on this disk, and only what is can be verified: name a folder.")
    with Progress(terminal.err(), "Reading", "bytes") as progress:
        return verify(Path(path), progress.update)


def _made_by(path: str) -> dict[str, str]:
    """From what, and by which recipe, where the folder says so."""
    from quantize.manifest import FILE, read_manifest

    if not Path(path, FILE).is_file():
        return {}
    manifest = read_manifest(Path(path))
    return {"source": manifest.source, "recipe": manifest.recipe}


def _open(model: str) -> tuple[str, Checkpoint]:
    from mlx_qnext.checkpoint import Checkpoint
    from mlx_qnext.hub import locate

    place = locate(model)
    if isinstance(place, Path):
        return str(place), Checkpoint.open(place)
    return _open_remote(place)


def _open_remote(place: Repository) -> tuple[str, Checkpoint]:
    """A repository's headers, and its folder in the cache; or, where the weights are not there, its address as the hub's
    own tools write it."""
    from mlx_qnext.remote import RemoteCheckpoint

    with (
        Progress(terminal.err(), "Reading headers", "count") as progress,
        TemporaryDirectory(prefix="qnext-") as folder,
    ):
        remote = RemoteCheckpoint.peek(place.name, place.revision, Path(folder), progress.update)
    return str(remote.snapshot or f"{_HUB}{remote.repo}@{remote.commit}"), remote.checkpoint
