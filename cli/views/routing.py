"""Which experts a prompt visits: a heat map for a terminal, a table of numbers for whatever else reads it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from cli.views.units import percent

if TYPE_CHECKING:
    from mlx_qnext.generate.routing import Routing

# Multiples of what each expert would get if all were visited alike; between two of them lies one shade.
_BOUNDS = (1, 2, 4)
_BLOCKS = " ░▒▓█"
_ASCII = " .:*#"
_LEGEND = (
    "{0} below an even share of the visits, {1} up to twice, {2} up to four times, {3} beyond; blank: none"
)


class RoutingMap:
    """A row for each layer; each column is an expert, or the mean of a few neighbours where the terminal is narrower.

    The shade is in the characters alone, so that the map needs no colour. At the right is how many experts were used.

    Args:
        title: a line above the map.
    """

    def __init__(self, routing: Routing, title: str) -> None:
        self._routing, self._title = routing, title

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shades = _ASCII if options.ascii_only else _BLOCKS
        words = [self._title, coverage(self._routing), _LEGEND.format(*shades[1:])]
        title, spread, legend = (Text(text).wrap(console, options.max_width) for text in words)
        yield from title
        yield from map(Text, self._rows(shades, options.max_width))
        yield from legend
        yield from spread

    def _rows(self, shades: str, width: int) -> Iterator[str]:
        """A heading that numbers the first and the last expert, then the layers."""
        labels = ["layer", *map(layer_label, self._routing.paths)]
        used = ["used", *map(str, self._routing.used)]
        left, right = max(map(len, labels)), max(map(len, used))
        experts = len(self._routing.counts[0])
        columns = max(1, min(experts, width - left - right - 3))
        rows = [_heading(experts, columns)]
        rows += ["".join(shades[level] for level in _binned(row, columns)) for row in self._routing.counts]
        for label, cells, number in zip(labels, rows, used):
            yield f"{label:>{left}} {cells}  {number:>{right}}"


def routing_table(routing: Routing) -> str:
    """Tab-separated: a head, then for each layer its module, how many experts were used, and every expert's visits."""
    head = ["layer", "used", *map(str, range(len(routing.counts[0])))]
    rows = zip(routing.paths, routing.used, routing.counts)
    lines = [head, *([path, str(used), *map(str, counts)] for path, used, counts in rows)]
    return "".join("\t".join(line) + "\n" for line in lines)


def coverage(routing: Routing) -> str:
    """How uneven the visits are, in a sentence."""
    half, most = (percent(routing.covering(share)) for share in (0.5, 0.9))
    return (
        f"half of a layer's visits go to {half} of its experts, 90 % of them to {most} (mean over the layers)"
    )


def layer_label(path: str) -> str:
    """A layer's number; the MTP head's layers have `mtp` before it."""
    number = next((part for part in path.split(".") if part.isdigit()), path)
    return f"mtp {number}" if path.startswith("mtp.") else number


def level(visits: int, experts: int, row: Sequence[int], bounds: Sequence[float]) -> int:
    """0 where there are no visits, else one more than the bounds that are reached: multiples of what so many experts would
    get of the row's visits, if all were visited alike."""
    if visits == 0:
        return 0
    return 1 + bisect_right(bounds, visits * len(row) / (experts * sum(row)))


def _binned(row: Sequence[int], columns: int) -> Iterator[int]:
    edges = [column * len(row) // columns for column in range(columns + 1)]
    for start, end in pairwise(edges):
        yield level(sum(row[start:end]), end - start, row, _BOUNDS)


def _heading(experts: int, columns: int) -> str:
    last = str(experts - 1)
    return "0" + last.rjust(columns - 1) if columns > len(last) + 1 else " " * columns
