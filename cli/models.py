"""`qnext models`: what this machine has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import terminal
from cli.views.models import ModelList

if TYPE_CHECKING:
    from cli.local_models import LocalModel


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a model.")] = False,
) -> None:
    """List the models that are here: the embedded one, and what the cache of Hugging Face's tools holds. The hub is not
    asked."""
    # Kept out of other commands' start-up.
    from cli.local_models import local_models

    here, unreadable = local_models()
    found = [_facts(model) for model in here]
    if as_json:
        for facts in found:
            typer.echo(json.dumps(facts, ensure_ascii=False))
    else:
        terminal.out().print(ModelList(found), soft_wrap=False)
    err = terminal.err()
    for each in unreadable:
        err.print(
            terminal.visible(f"{each.folder} cannot be read ({each.reason}): check its permissions."),
            style="red",
            soft_wrap=not err.is_terminal,
        )


def _facts(model: LocalModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "folder": str(model.folder),
        "quantization": model.quantization,
        "mtp": model.mtp,
        "bytes": model.nbytes,
        "complete": model.complete,
        "used_at": model.used.isoformat(timespec="seconds") if model.used else None,
    }
