"""Groups of tokens that one step of the model gave, made visible."""

from __future__ import annotations

from rich.console import Console
from rich.style import Style

# Both colours are set: no shade may be unreadable on a background that is not known.
_SHADES = (Style(color="black", bgcolor="cyan"), Style(color="black", bgcolor="green"))
_WITHOUT_COLOUR = (Style(underline=True), Style(reverse=True))
_PLAIN = Style()


class Shading:
    """A style for each group: none for a single token, two in turns for groups of several, so that neighbours differ."""

    def __init__(self, console: Console) -> None:
        self._shades = _WITHOUT_COLOUR if console.no_color else _SHADES
        self._groups = 0

    def style(self, tokens: int) -> Style:
        """How the next group is shown, of so many tokens."""
        if tokens < 2:
            return _PLAIN
        shade = self._shades[self._groups % len(self._shades)]
        self._groups += 1
        return shade
