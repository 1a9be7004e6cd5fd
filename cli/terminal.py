"""The two streams: answers on stdout, everything about them on stderr."""

from __future__ import annotations

import sys

from rich.console import Console


def out() -> Console:
    """Stdout, for what a command was asked for."""
    return _console(stderr=False)


def err() -> Console:
    """Stderr, for thoughts, notes, progress and figures."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    # No markup and no highlighting: brackets and numbers in a model's text mean themselves.
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)


def stdin_is_terminal() -> bool:
    """Whether a person types."""
    return sys.stdin is not None and sys.stdin.isatty()
