"""Which experts a prompt visits, as a picture that needs nothing beside it."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from cli.terminal import visible
from cli.views.routing import coverage, layer_label, level

if TYPE_CHECKING:
    from mlx_qnext.generate.routing import Routing

_BOUNDS = (0.5, 1, 2, 4, 8)
_COLOURS = ("#f3f4f6", "#d6e6f5", "#a9cbea", "#73a8d8", "#3f80bf", "#1f5796", "#0b2f5c")
_MEANINGS = ("none", "below ½", "½ to 1", "1 to 2", "2 to 4", "4 to 8", "8 and more")
_LEGEND_TITLE = "visits, as multiples of an even share:"

_MAP_WIDTH = 1024
_ROW = 12
_LEFT, _TOP, _RIGHT, _BOTTOM = 72, 76, 24, 84
_TICKS = 8
# What fits over the map at the title's size.
_TITLE_CHARACTERS = 120


def routing_svg(routing: Routing, title: str) -> str:
    """An SVG document: layers downwards, experts to the right, coloured by visits; title, axes and legend are in it."""
    experts, layers = len(routing.counts[0]), len(routing.counts)
    cell = max(1, _MAP_WIDTH // experts)
    width, height = cell * experts, _ROW * layers
    total = f"{_LEFT + max(width, _MAP_WIDTH) + _RIGHT} {_TOP + height + _BOTTOM}"
    name = _escaped(title)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total}" role="img" font-family="sans-serif" font-size="11">',
        f"<title>{name}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="16">{_escaped(_shortened(title))}</text>',
        f'<text x="{_LEFT}" y="42" fill="#555">{_escaped(coverage(routing))}</text>',
        *_axes(routing, cell),
        f'<g transform="translate({_LEFT} {_TOP}) scale({cell} {_ROW})" shape-rendering="crispEdges">',
        *_cells(routing.counts),
        "</g>",
        *_legend(_TOP + height + 60),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _cells(counts: Sequence[Sequence[int]]) -> Iterator[str]:
    """One path for each colour: neighbours of one colour are one rectangle. A cell is a unit wide and high."""
    yield f'<path fill="{_COLOURS[0]}" d="M0 0h{len(counts[0])}v{len(counts)}H0z"/>'
    runs: dict[int, list[str]] = {}
    for y, row in enumerate(counts):
        x = 0
        for shade, group in groupby(level(visits, 1, row, _BOUNDS) for visits in row):
            length = len(list(group))
            runs.setdefault(shade, []).append(f"M{x} {y}h{length}v1h-{length}z")
            x += length
    for shade in sorted(runs.keys() - {0}):
        yield f'<path fill="{_COLOURS[shade]}" d="{"".join(runs[shade])}"/>'


def _axes(routing: Routing, cell: int) -> Iterator[str]:
    experts, bottom = len(routing.counts[0]), _TOP + _ROW * len(routing.counts)
    for row, path in enumerate(routing.paths):
        y = _TOP + _ROW * row + _ROW - 3
        yield f'<text x="{_LEFT - 6}" y="{y}" text-anchor="end" font-size="9">{_escaped(layer_label(path))}</text>'
    for expert in range(0, experts, -(-experts // _TICKS)):
        x = _LEFT + cell * expert + cell / 2
        yield f'<path d="M{x:g} {bottom}v4" stroke="#555"/>'
        yield f'<text x="{x:g}" y="{bottom + 16}" text-anchor="middle" font-size="9">{expert}</text>'
    yield f'<text x="{_LEFT + cell * experts / 2:g}" y="{bottom + 34}" text-anchor="middle">expert</text>'
    middle = (_TOP + bottom) / 2
    yield f'<text transform="translate(20 {middle:g}) rotate(-90)" text-anchor="middle">layer</text>'


def _legend(y: int) -> Iterator[str]:
    yield f'<text x="{_LEFT}" y="{y}">{_LEGEND_TITLE}</text>'
    for number, (colour, meaning) in enumerate(zip(_COLOURS, _MEANINGS)):
        x = _LEFT + 220 + 100 * number
        yield f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{colour}" stroke="#999" stroke-width="0.5"/>'
        yield f'<text x="{x + 18}" y="{y}">{meaning}</text>'


def _shortened(text: str) -> str:
    return text if len(text) <= _TITLE_CHARACTERS else f"{text[: _TITLE_CHARACTERS - 1]}…"


def _escaped(text: str) -> str:
    """The text as XML may hold it: names of files may have bytes in them that are no characters."""
    sound = visible(text).encode("utf-8", "replace").decode()
    return html.escape(sound.translate({0xFFFE: 0xFFFD, 0xFFFF: 0xFFFD}), quote=False)
