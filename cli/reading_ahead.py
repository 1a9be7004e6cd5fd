"""Reads on while the user types, so that the next turn begins with less to read."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from cli.conversation import Message

if TYPE_CHECKING:
    from mlx_qnext import Session


@contextmanager
def reading_ahead(session: Session, messages: Sequence[Message], thinking: bool | None) -> Iterator[None]:
    """Within, another thread brings into the session what the next prompt will begin with, and shows nothing.

    Left in any way, it is over, and the session is free. An interrupt stops it too, and is raised as ever; one that comes while
    the pass at hand ends is raised after that.
    """
    cancelled = threading.Event()
    thread = threading.Thread(
        target=_read, args=(session, messages, thinking, cancelled), name="reading ahead", daemon=True
    )
    leaving = interrupted = False

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        cancelled.set()
        if not leaving:
            raise KeyboardInterrupt
        interrupted = True

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        thread.start()
        yield
    finally:
        leaving = True
        cancelled.set()
        thread.join()
        signal.signal(signal.SIGINT, before)
    if interrupted:
        raise KeyboardInterrupt


def _read(
    session: Session, messages: Sequence[Message], thinking: bool | None, cancelled: threading.Event
) -> None:
    # Whatever fails here fails again, in front of the user, when the next question is read; or it no longer does.
    with suppress(Exception):
        session.read_ahead(messages, thinking=thinking, cancelled=cancelled)
