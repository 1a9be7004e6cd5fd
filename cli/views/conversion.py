"""A conversion as it is planned, as it runs, and as it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from cli.views.progress import TransientBar, tenths
from cli.views.units import seconds, size
from quantize.loss import Loss, by_part, worst

if TYPE_CHECKING:
    from quantize.convert import Step
    from quantize.facts import Facts


def outline(facts: Facts, source_bytes: int, room_bytes: int) -> RenderableType:
    """What would be made: sizes and precisions by part, and what it takes."""
    recipe = facts.recipe
    what = f"{facts.target} + the MTP head of {facts.source}" if facts.target else facts.source
    lines = [
        f"{what} → {recipe.name}: {recipe.description or 'no description'}",
        f"reads {size(source_bytes)}, makes {size(facts.total_bytes)}, {facts.bits_per_weight:.2f} bits a weight",
        f"needs {size(room_bytes)} on the disk while it runs",
    ]
    return Group(Text("\n".join(lines) + "\n"), _parts(facts))


def outcome(facts: Facts, dest: Path) -> RenderableType:
    """What was made and what it lost."""
    parts: list[RenderableType] = [Text(), _parts(facts), Text("\nlost most:")]
    parts.append(_table(((f"  {name}", _percent(loss)) for name, loss in worst(facts.losses))))
    if facts.quality:
        parts += [Text(f"\nagainst the source, over {facts.quality.tokens} tokens:"), _quality(facts)]
    return Group(*parts, Text(f"\n{dest}: {size(facts.total_bytes)}. Try it: qnext chat --model {dest}"))


def _parts(facts: Facts) -> Table:
    losses = by_part(facts.losses)
    heads = ["part", "size", "precision"] + (["relative error"] if losses else [])
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in heads:
        right = head in ("size", "relative error")
        table.add_column(head, justify="right" if right else "left", no_wrap=head in ("part", "size"))
    for part, nbytes in facts.sizes.items():
        if nbytes:
            error = [_percent(losses[part]) if part in losses else ""] if losses else []
            table.add_row(part, size(nbytes), ", ".join(facts.precisions[part]) or "–", *error)
    total = [_percent(facts.loss)] if losses else []
    table.add_row("total", size(facts.total_bytes), "", *total, style="bold")
    return table


def _quality(facts: Facts) -> Table:
    quality = facts.quality
    assert quality is not None
    rows = [
        ("  KL divergence", f"{quality.kl:.5f} nats, {quality.kl_p99:.5f} at the 99th percentile"),
        ("  same likeliest token", f"{100 * quality.same_top:.2f} %"),
        ("  perplexity", f"{quality.perplexity:.4f}, source {quality.source_perplexity:.4f}"),
    ]
    if quality.mtp_agreement is not None:
        source = quality.source_mtp_agreement
        beside = f", source {100 * source:.2f} %" if source is not None else ""
        rows.append(("  MTP head and trunk agree", f"{100 * quality.mtp_agreement:.2f} %{beside}"))
    return _table(rows)


def _table(rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _percent(loss: Loss) -> str:
    return f"{100 * loss.relative:.3f} %"


class ConversionView(TransientBar):
    """Told each step: a bar with rate, time left and tensor on a terminal, a plain line at every tenth elsewhere."""

    def __init__(self, console: Console, clock: Callable[[], float] = monotonic) -> None:
        super().__init__()
        self._console, self._clock = console, clock
        self._start: tuple[float, int] | None = None
        self._last_tenth = 0

    def update(self, step: Step) -> None:
        """The work is so far."""
        if self._start is None:
            self._start = self._clock(), step.work_bytes
            self._last_tenth = _tenth(step)
        if self._console.is_interactive:
            self._draw(step)
        elif _tenth(step) > self._last_tenth:
            self._last_tenth = _tenth(step)
            self._console.print(self._line(step))

    def _draw(self, step: Step) -> None:
        if self._bar is None:
            # Imported for a bar alone: a shell completes without it.
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )
            from rich.progress import Progress as RichProgress

            whole = Column(no_wrap=True)
            self._bar = RichProgress(
                BarColumn(),
                DownloadColumn(table_column=whole),
                TransferSpeedColumn(table_column=whole),
                TimeRemainingColumn(table_column=whole),
                TextColumn("{task.description}", style="dim", table_column=Column(no_wrap=True, ratio=1)),
                console=self._console,
                transient=True,
                expand=True,
            )
            self._bar.add_task("", total=step.total_bytes, completed=step.work_bytes)
            self._bar.start()
        task = self._bar.task_ids[0]
        self._bar.update(task, completed=step.work_bytes, total=step.total_bytes, description=step.tensor)

    def _line(self, step: Step) -> str:
        assert self._start is not None
        began, first_bytes = self._start
        elapsed_s = self._clock() - began
        rate = (step.work_bytes - first_bytes) / elapsed_s if elapsed_s > 0 else 0.0
        missing_bytes = step.total_bytes - step.work_bytes
        left = f", {seconds(missing_bytes / rate)} left" if rate and missing_bytes else ""
        return (
            f"{10 * _tenth(step)} %: {size(step.work_bytes)} of {size(step.total_bytes)}, "
            f"{size(int(rate))}/s{left}, {step.tensor}"
        )


def _tenth(step: Step) -> int:
    return tenths(step.work_bytes, step.total_bytes)
