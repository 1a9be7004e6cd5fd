"""A conversion as tests run it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quantize.facts import Facts
from quantize.job import Listeners, prepare
from quantize.recipe import Recipe


def quantize(
    source: Path | str,
    dest: Path,
    recipe: Recipe | None,
    documents: Sequence[Sequence[int]] | None = None,
    *,
    mtp_from: Path | str | None = None,
    keep_shards: bool = False,
) -> Facts:
    """The folder `dest` is made; nobody is told how far it is."""
    donor = None if mtp_from is None else str(mtp_from)
    with prepare(str(source), dest, recipe, mtp_from=donor, keep_shards=keep_shards) as job:
        return job.run(documents, Listeners())
