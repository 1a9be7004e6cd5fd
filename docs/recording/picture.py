"""A recording as one SVG, which plays once and then stays as it is."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from string import Template

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from docs.recording.terminal import COLUMNS, Version

THEME = TerminalTheme(
    (22, 27, 34),
    (214, 220, 228),
    [
        (13, 17, 23),
        (255, 123, 114),
        (126, 211, 135),
        (229, 192, 107),
        (121, 184, 255),
        (210, 168, 255),
        (109, 203, 214),
        (214, 220, 228),
    ],
    [
        (139, 148, 158),
        (255, 161, 152),
        (157, 228, 165),
        (240, 212, 140),
        (158, 203, 255),
        (226, 197, 255),
        (150, 222, 230),
        (255, 255, 255),
    ],
)
# Rich's own format fetches a font from a server whenever the file is looked at.
WINDOW = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-rows {{
    font: {char_height}px/{line_height}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}}
.{unique_id}-title {{ font: bold 18px system-ui, sans-serif; }}
$styles
.gone {{ visibility: hidden; }}
@keyframes seen {{ from, to {{ visibility: visible; }} }}
@keyframes unseen {{ from, to {{ visibility: hidden; }} }}
@media (prefers-reduced-motion: no-preference) {{
    .gone {{ animation-name: seen; }}
    .stays {{ animation-name: unseen; }}
}}
</style>
{chrome}
<g class="{unique_id}-rows" transform="translate({terminal_x}, {terminal_y})" xml:space="preserve">
$rows
</g>
</svg>
"""
DRAWN = "{styles}\0{line_height}\0{backgrounds}{matrix}"
ELEMENT = re.compile(r"<rect [^>]*/>|<text [^>]*>[^<]*</text>")
Y = re.compile(r' y="([^"]*)"')
CLIPPED = re.compile(r' clip-path="[^"]*"')


def picture(versions: Sequence[Version], name: str) -> str:
    """The SVG. It needs nothing from elsewhere; where motion is not wanted, it shows the end."""
    styles, height, drawn = _exported([version.text for version in versions], DRAWN, name).split("\0")
    elements: list[list[str]] = [[] for _ in versions]
    for element in ELEMENT.findall(drawn):
        (y,) = Y.findall(element)
        elements[int(float(y) / float(height))].append(CLIPPED.sub("", element))
    rows = [
        f'<g {_shown(version)} transform="translate(0 {(version.row - at) * float(height):g})">{"".join(parts)}</g>'
        for at, (version, parts) in enumerate(zip(versions, elements))
    ]
    window = _exported([Text()] * (1 + max(version.row for version in versions)), WINDOW, name)
    return Template(window).substitute(styles=styles, rows="\n".join(rows))


def _shown(version: Version) -> str:
    since_s = version.since_s
    if version.until_s is None:
        return f'class="stays" style="animation-duration:{since_s:.2f}s"'
    return f'class="gone" style="animation-delay:{since_s:.2f}s;animation-duration:{version.until_s - since_s:.2f}s"'


def _exported(lines: Sequence[Text], code_format: str, name: str) -> str:
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text("\n").join(lines))
    return console.export_svg(title="qnext chat", theme=THEME, code_format=code_format, unique_id=name)
