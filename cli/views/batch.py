"""How far a batch is: a bar with what is left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from rich.console import Console

from cli.views.progress import TransientBar, tenths
from cli.views.units import percent, rate, seconds

# Elsewhere than on a terminal, a line at every tenth, and at least this often where requests take long.
_SAY_EVERY_S = 60.0
# In a narrower terminal what is done and left takes all of the line.
_BAR_FROM_COLUMNS = 72


@dataclass
class BatchCount:
    """What came of a batch so far.

    Attributes:
        total: lines that ask something. held: those of them whose records were there when it began.
        answered, failed: since then; `failed_before` of the held ones had.
        prompt_tokens, cached_tokens, completion_tokens: of the answers since then. noticed: those with notices.
    """

    total: int
    held: int = 0
    failed_before: int = 0
    answered: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    noticed: int = 0

    @property
    def done(self) -> int:
        """Lines that have their records."""
        return self.held + self.answered + self.failed

    @property
    def all_failed(self) -> int:
        """Records of errors, earlier ones too."""
        return self.failed_before + self.failed


class BatchView(TransientBar):
    """Told of every record; it is one bar on a terminal, which leaves no trace, and plain lines elsewhere.

    Args:
        shows: whether to show anything before the end.
    """

    def __init__(
        self, console: Console, clock: Callable[[], float] = monotonic, *, shows: bool = True
    ) -> None:
        super().__init__()
        self._console, self._clock, self._shows = console, clock, shows
        self._start: float | None = None
        self._beside = 0
        self._said_at, self._said_tenths = 0.0, 0

    def begin(self, count: BatchCount, concurrency: int = 1) -> None:
        """The model is there, and the first request begins; so many are answered at a time."""
        self._beside = concurrency - 1
        self._start = self._said_at = self._clock()
        self._said_tenths = tenths(count.done, count.total)
        if self._shows and self._has_bar:
            self._draw(count)

    def update(self, count: BatchCount) -> None:
        """One more line has its record."""
        if self._start is None or not self._shows:
            return
        if self._has_bar:
            self._draw(count)
        elif self._is_due(count):
            self._console.print(self.progress(count))

    def progress(self, count: BatchCount, *, brief: bool = False) -> str:
        """12 of 100 done, 1 failed, about 3 min 5 s left, 81.0 tok/s; a `brief` one has no rate."""
        parts = [f"{count.done} of {count.total} done"]
        if count.all_failed:
            parts.append(f"{count.all_failed} failed")
        elapsed, remaining = self._elapsed, count.total - count.done
        if count.answered and remaining:
            # Those that are being answered are halfway, taken together. What failed or was held took no time.
            begun = min(self._beside, remaining) / 2
            left_s = elapsed * (remaining - begun) / (count.answered + begun)
            parts.append(f"about {seconds(left_s)} left")
        if count.completion_tokens and elapsed > 0 and not brief:
            parts.append(rate(count.completion_tokens / elapsed))
        return ", ".join(parts)

    def outcome(self, count: BatchCount) -> str:
        """100 done, 1 failed, in 65 s, 81.0 tok/s; 43 % of the prompts' tokens were shared."""
        parts = [f"{count.done} done"]
        if count.all_failed:
            parts.append(f"{count.all_failed} failed")
        if self._start is None:
            return ", ".join(parts)
        parts.append(f"in {seconds(self._elapsed)}")
        if count.completion_tokens and self._elapsed > 0:
            parts.append(rate(count.completion_tokens / self._elapsed))
        text = ", ".join(parts)
        if not count.prompt_tokens:
            return text
        return (
            f"{text}; {percent(count.cached_tokens / count.prompt_tokens)} of the prompts' tokens were shared"
        )

    @property
    def _has_bar(self) -> bool:
        # Where nothing can be drawn over, Rich would show nothing at all.
        return self._console.is_terminal and not self._console.is_dumb_terminal

    @property
    def _elapsed(self) -> float:
        return 0.0 if self._start is None else self._clock() - self._start

    def _is_due(self, count: BatchCount) -> bool:
        if count.done == count.total:
            # The outcome says it.
            return False
        now, reached = self._clock(), tenths(count.done, count.total)
        if reached <= self._said_tenths and now - self._said_at < _SAY_EVERY_S:
            return False
        self._said_at, self._said_tenths = now, reached
        return True

    def _draw(self, count: BatchCount) -> None:
        brief = self._console.width < _BAR_FROM_COLUMNS
        if self._bar is None:
            # Imported for a bar alone: a shell completes without it.
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as RichProgress
            from rich.table import Column

            figures = TextColumn("{task.description}", table_column=Column(no_wrap=True))
            # Answers may take minutes: the clock shows that it goes on.
            columns = (BarColumn(), TimeElapsedColumn(), figures)
            columns = columns[1:] if brief else columns
            self._bar = RichProgress(*columns, console=self._console, transient=True, get_time=self._clock)
            self._bar.add_task("", total=count.total)
            self._bar.start()
        task = self._bar.task_ids[0]
        self._bar.update(task, completed=count.done, description=self.progress(count, brief=brief))
