"""Ctrl-C while the model answers: the first ends the answer, the second the program. Ctrl-Z, and a terminal that is closed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_qnext import Session


@contextmanager
def cancelling(session: Session) -> Iterator[None]:
    """Within, an interrupt cancels the session's answer, which keeps what was said; a second one is raised."""
    interrupted = False

    def handle(_signal: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        session.cancel()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def going_on(then: Callable[[], object]) -> Iterator[None]:
    """Within, this is called whenever the program goes on after it was suspended, and others had the terminal."""
    previous = signal.signal(signal.SIGCONT, lambda *_: then())
    try:
        yield
    finally:
        signal.signal(signal.SIGCONT, previous)


@contextmanager
def hanging_up_interrupts() -> Iterator[None]:
    """Within, a terminal that goes away is an interrupt, once: there is time to save, and nobody left to interrupt that."""

    def handle(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGHUP, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, previous)
