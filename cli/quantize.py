"""`qnext quantize`: local weights from a published checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import terminal
from cli.views.progress import Progress
from mlx_qnext.errors import INTERRUPTED_EXIT_CODE, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from quantize.facts import Facts
    from quantize.job import Job
    from quantize.recipe import Recipe

DEFAULT_BITS = 4


def quantize(
    source: Annotated[str, typer.Argument(help="A folder, or a hub repository org/name[@revision].")],
    dest: Annotated[Path, typer.Argument(help="The folder to make.")],
    bits: Annotated[int | None, typer.Option("--bits", help="3, 4, 5, 6 or 8; without it, 4.")] = None,
    group_size: Annotated[
        int | None, typer.Option("--group-size", help="Weights that share a scale: 32, 64 or 128.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", metavar="<name|file>", help="3bit, mixed-3-4, 4bit, 5bit, 6bit, 8bit, or a TOML file."
        ),
    ] = None,
    mtp_from: Annotated[
        str | None,
        typer.Option(
            "--mtp-from",
            metavar="<source>",
            help="Add this model's MTP head to SOURCE, which is quantised already.",
        ),
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Measure what was lost, on a text of this program's own.")
    ] = False,
    evaluate_on: Annotated[
        Path | None,
        typer.Option(
            "--evaluate-on", metavar="<file>", help="Measure it on this text, or JSON lines, instead."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be made, and make nothing.")
    ] = False,
    keep_shards: Annotated[
        bool, typer.Option("--keep-shards", help="Keep what is fetched from the hub, in its cache.")
    ] = False,
) -> None:
    """Make local weights from SOURCE in DEST. Stopped at any moment, the same command goes on."""
    chosen = _recipe(recipe, bits, group_size, optional=mtp_from is not None)
    # Kept out of other commands' start-up, as everything that quantises.
    from cli.views.conversion import outcome, outline
    from quantize.documents import DEFAULT_TEXT
    from quantize.job import prepare

    out, err = terminal.out(), terminal.err()
    with (
        Progress(err, "Downloading", "bytes") as download,
        prepare(
            source, dest, chosen, mtp_from=mtp_from, keep_shards=keep_shards, on_download=download.update
        ) as job,
    ):
        download.close()
        documents = job.documents(evaluate_on or DEFAULT_TEXT) if evaluate or evaluate_on else None
        out.print(outline(job.forecast(), job.plan.source_bytes, job.room_bytes))
        if dry_run:
            return
        try:
            facts = _run(job, documents, err)
        except KeyboardInterrupt:
            terminal.note(
                err, f"Stopped. {job.workspace.folder} keeps what is done: run the same command to go on."
            )
            raise typer.Exit(INTERRUPTED_EXIT_CODE) from None
    out.print(outcome(facts, dest))


def _recipe(name: str | None, bits: int | None, group_size: int | None, *, optional: bool) -> Recipe | None:
    """The recipe that these options name; `None` where they name none and there need not be one.

    Raises:
        UsageError: they contradict each other, or cannot be meant.
    """
    from mlx_qnext.quantization import GROUP_SIZES
    from quantize.recipe_file import NAMES, find_recipe

    if name is not None and bits is not None:
        raise UsageError("--recipe and --bits both say how precise the weights are: give one of them.")
    if bits is not None and f"{bits}bit" not in NAMES:
        raise UsageError(f"--bits is {bits}, expected 3, 4, 5, 6 or 8.")
    if group_size is not None and group_size not in GROUP_SIZES:
        raise UsageError(f"--group-size is {group_size}, expected one of {', '.join(map(str, GROUP_SIZES))}.")
    if optional and name is None and bits is None and group_size is None:
        return None
    recipe = find_recipe(name or f"{bits or DEFAULT_BITS}bit")
    return recipe if group_size is None else recipe.with_group_size(group_size)


def _run(job: Job, documents: list[list[int]] | None, err: Console) -> Facts:
    """The job, with a view of each of its parts."""
    from cli.views.conversion import ConversionView
    from quantize.job import Listeners

    with (
        ConversionView(err) as conversion,
        Progress(err, "Evaluating", "count") as evaluation,
        Progress(err, "Checking", "bytes") as check,
    ):

        def on_evaluated(done: int, total: int) -> None:
            conversion.close()
            evaluation.update(done, total)

        def on_signed(done_bytes: int, total_bytes: int) -> None:
            conversion.close()
            evaluation.close()
            check.update(done_bytes, total_bytes)

        return job.run(documents, Listeners(conversion.update, on_evaluated, on_signed))
