"""Ends an answer before the first of some strings, however the text is cut into pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text through until one of the strings has come whole; text that may become one is held back.

    Attributes:
        found: a stop string has come, and nothing passes any more.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that is certain to precede every stop string."""
        if self.found:
            return ""
        self._held += text
        starts = [at for at in (self._held.find(string) for string in self._strings) if at >= 0]
        self.found = bool(starts)
        keep = 0 if starts else self._unfinished()
        certain = self._held[: min(starts)] if starts else self._held[: len(self._held) - keep]
        self._held = self._held[len(certain) :]
        return certain

    def flush(self) -> str:
        """What was held back when the answer ended without a stop string."""
        rest, self._held = ("" if self.found else self._held), ""
        return rest

    def _unfinished(self) -> int:
        """Length of the longest end of the text that is the start of a stop string."""
        longest = min(max((len(s) for s in self._strings), default=1) - 1, len(self._held))
        ends = (n for n in range(longest, 0, -1) if any(s.startswith(self._held[-n:]) for s in self._strings))
        return next(ends, 0)
