"""What reading ahead gains where the user is slow, and costs where the user is fast."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from time import perf_counter, sleep

from dialogue import Turn
from own_answers import reply

from mlx_qnext import Engine, GenerationConfig
from mlx_qnext.generate.events import TokensEmitted
from mlx_qnext.generate.session import Session

# When the input comes, over the time that reading ahead takes.
ARRIVALS = (0.0, 0.2, 0.5, 1.0, 2.0)
ROUNDS = 3


@dataclass(frozen=True)
class Trial:
    """One question that came while the session was reading ahead, or after.

    Attributes:
        token_ms: from the input to the first token, the wait for the reading's end included.
        end_ms: from the cancelling to the reading's end.
        ahead_tokens: read by then.
    """

    token_ms: float
    end_ms: float
    ahead_tokens: int


def interruptions(engine: Engine, turns: Sequence[Turn], limit: int) -> None:
    """Print the time to the first token by when the input comes, over every fourth turn of a conversation."""
    session = engine.session()
    trials: dict[float | None, list[Trial]] = {arrival: [] for arrival in (None, *ARRIVALS)}
    longest: list[float] = []
    for before, turn in list(pairwise(turns))[1::4]:
        for _ in range(ROUNDS):
            _say_again(session, before, limit)
            takes_s = _time_ahead(session, before)
            longest.append(takes_s * 1e3)
            for arrival, found in trials.items():
                _say_again(session, before, limit)
                found.append(
                    _interrupted(session, before, turn, None if arrival is None else arrival * takes_s)
                )
    _print(trials, median(longest))


def _say_again(session: Session, turn: Turn, limit: int) -> None:
    """Bring the session to where the turn's reply has just been said."""
    reply(session, turn.messages, limit, None)


def _time_ahead(session: Session, turn: Turn) -> float:
    """Seconds that reading ahead takes when nothing comes in between."""
    start = perf_counter()
    session.read_ahead(turn.history())
    return perf_counter() - start


def _interrupted(session: Session, before: Turn, turn: Turn, after_s: float | None) -> Trial:
    """Ask the next question so long after the reply, which is read ahead meanwhile; `None` asks without."""
    read: list[int] = []
    cancelled = threading.Event()
    ahead = threading.Thread(
        target=lambda: read.append(session.read_ahead(before.history(), cancelled=cancelled))
    )
    if after_s is not None:
        ahead.start()
        sleep(after_s)
    start = perf_counter()
    if after_s is not None:
        cancelled.set()
        ahead.join()
    ended = perf_counter()
    events = session.generate(turn.messages, GenerationConfig(temperature=0.0, max_tokens=1))
    next(event for event in events if isinstance(event, TokensEmitted))
    came = perf_counter()
    for _ in events:
        pass
    return Trial((came - start) * 1e3, (ended - start) * 1e3, read[0] if read else 0)


def _print(trials: dict[float | None, list[Trial]], longest_ms: float) -> None:
    print(f"\nReading ahead takes {longest_ms:.0f} ms. By when the input comes:\n")
    print(
        "| input after | tokens read ahead | waited for its end, ms | most | first token, ms | over without |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    without = trials[None]
    for arrival, found in trials.items():
        name = "without" if arrival is None else f"{100 * arrival:.0f} %"
        waits = [trial.end_ms for trial in found]
        # Pair by pair, because turns differ in length.
        ratio = median(trial.token_ms / plain.token_ms for trial, plain in zip(found, without))
        print(
            f"| {name} | {median(t.ahead_tokens for t in found):.0f} | {median(waits):.1f} | {max(waits):.1f} "
            f"| {median(t.token_ms for t in found):.0f} | {ratio:.2f}× |"
        )
