"""Runs one request on screen: events in, views driven, the result out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cli.interrupts import cancelling, going_on
from cli.terminal import note
from cli.views.answer import AnswerView
from cli.views.progress import Progress
from mlx_qnext.generate.events import Event, ExpertActivity, Finished, Notice, PrefillProgress, TokensEmitted
from mlx_qnext.generate.request import GenerationConfig

if TYPE_CHECKING:
    from mlx_qnext import Session


def answer(
    session: Session,
    messages: Sequence[dict[str, Any]],
    config: GenerationConfig,
    err: Console,
    view: AnswerView | None,
) -> Finished:
    """The finished answer, shown in `view` while it came; an interrupt ends it and keeps what was said.

    However it ends, no region and no open line of the view is left on screen.
    """
    events = session.generate(messages, config)
    with Progress(err, "Reading the prompt", "count") as prefill, cancelling(session):
        if view is None:
            return _shown(events, err, prefill, None)
        try:
            with going_on(view.begin_below):
                return _shown(events, err, prefill, view)
        finally:
            view.finish()


def _shown(events: Iterable[Event], err: Console, prefill: Progress, view: AnswerView | None) -> Finished:
    for event in events:
        if isinstance(event, PrefillProgress):
            prefill.update(event.done_tokens, event.total_tokens)
            if view is not None:
                view.prefill(event)
        elif isinstance(event, TokensEmitted):
            prefill.close()
            if view is not None:
                view.update(event)
        elif isinstance(event, ExpertActivity):
            if view is not None:
                view.experts(event.stats)
        elif isinstance(event, Notice):
            note(err, event.message) if view is None else view.notice(event.message)
        elif isinstance(event, Finished):
            return event
    raise AssertionError("a request ends with Finished")
