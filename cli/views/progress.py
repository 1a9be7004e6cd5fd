"""Progress of downloads, loading and long prompts: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

# Shorter work shows nothing: a bar that flashes by tells nobody anything.
_SHOW_AFTER_S = 1.0


class TransientBar:
    """A view with a bar that leaves no trace once it is closed."""

    def __init__(self) -> None:
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def tenths(done: int, total: int) -> int:
    """How many whole tenths are done: where no terminal shows a bar, a line is printed for each."""
    return 10 * done // max(total, 1)


class Progress(TransientBar):
    """Told how much of a total is done; silent where the work ends within a second.

    On a terminal it is a bar with the time left, from the rate measured, and leaves no trace. Elsewhere, and where a cursor
    cannot be moved, it is one plain line at every tenth.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        unit: Literal["bytes", "count"],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__()
        self._console, self._title, self._unit, self._clock = console, title, unit, clock
        self._start: float | None = None
        self._last_tenth = 0

    def update(self, done: int, total: int) -> None:
        """`done` of `total` are done; the first call tells that the work began."""
        if self._start is None:
            self._start = self._clock()
        if self._clock() - self._start < _SHOW_AFTER_S:
            return
        if self._console.is_interactive:
            self._draw(done, total)
        else:
            self._print_tenth(done, total)

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            # Imported for a bar alone: a shell completes without it.
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as RichProgress
            from rich.table import Column

            # Where the terminal is narrow, the bar gives way and the numbers stay whole.
            whole = Column(no_wrap=True)
            amount = DownloadColumn if self._unit == "bytes" else MofNCompleteColumn
            numbers = (amount(table_column=whole), TimeRemainingColumn(table_column=whole))
            columns = (TextColumn("{task.description}"), BarColumn(), *numbers)
            self._bar = RichProgress(*columns, console=self._console, transient=True)
            self._bar.add_task(self._title, total=total, completed=done)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def _print_tenth(self, done: int, total: int) -> None:
        if tenths(done, total) > self._last_tenth:
            self._last_tenth = tenths(done, total)
            self._console.print(f"{self._title}: {10 * self._last_tenth} %")
