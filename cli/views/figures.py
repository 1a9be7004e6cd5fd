"""What `/stats` shows: the last answer, all of them together, and how full the context is."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table

from cli.totals import Totals
from cli.views.stats import stats_line
from cli.views.status import Setting, context_text
from cli.views.units import percent, rate, size, token_count, tokens


def figures(totals: Totals, setting: Setting, used_tokens: int) -> RenderableType:
    """A row for the last answer, one for the conversation, and one for its context, of which so many tokens are used."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    if totals.last is not None:
        # The context's row says that, as it is now.
        table.add_row("last answer", stats_line(totals.last, Setting(setting.model)))
        table.add_row("conversation", " · ".join(_sums(totals)))
    table.add_row("context", context_text(used_tokens, setting.context_tokens).removeprefix("context "))
    return table


def _sums(totals: Totals) -> Iterator[str]:
    yield f"{totals.answers} answer{'s' if totals.answers > 1 else ''}"
    yield token_count(totals.completion_tokens)
    if totals.decode_tps:
        yield rate(totals.decode_tps)
    yield f"prompts {tokens(totals.prompt_tokens)} ({tokens(totals.cached_tokens)} cached)"
    if totals.drafted:
        yield f"drafts stood {percent(totals.accepted / totals.drafted)}"
    asked = totals.expert_hits + totals.expert_misses
    if totals.read_bytes and asked:
        yield f"experts hit {percent(totals.expert_hits / asked)}, read {size(totals.read_bytes)}"
    if totals.peak_bytes:
        yield f"memory at most {size(totals.peak_bytes)}"
