"""The program with few slots for experts, and what befalls it while it runs: python streamed_program.py WHAT ARGUMENTS…"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cli.main import main
from mlx_qnext.experts.pool import Pool
from mlx_qnext.experts.store import ExpertStore
from mlx_qnext.generate import engine, prefill
from mlx_qnext.generate.run import Run
from mlx_qnext.generate.session import Session

SLOTS = 6


def few_slots(plan: Callable[..., Any], slots: int = SLOTS) -> Callable[..., Any]:
    """Plans as this one makes them, for so many experts in every layer."""

    def planned(*arguments: Any) -> Any:
        made = plan(*arguments)
        return replace(made, slots=dict.fromkeys(made.slots, slots))

    return planned


def before(owner: Any, name: str, happens: Callable[[], object]) -> None:
    """Let something happen whenever a method is called."""
    method = getattr(owner, name)

    def call(*arguments: Any, **named: Any) -> Any:
        happens()
        return method(*arguments, **named)

    setattr(owner, name, call)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def interrupt_twice() -> None:
    interrupt()
    interrupt()


def interrupt_a_sweep() -> None:
    """After the second layer of a prompt."""
    sweep = prefill.sweep

    def interrupted(*arguments: Any) -> Iterator[int]:
        sweeping = sweep(*arguments)
        yield next(sweeping)
        yield next(sweeping)
        interrupt()
        return (yield from sweeping)

    prefill.sweep = interrupted  # pyright: ignore[reportAttributeAccessIssue]


def fill_without_end() -> None:
    """The background never has enough."""
    warm, fill = Pool.warm, ExpertStore.fill

    def warmed(pool: Pool, experts: Sequence[int], most: int) -> int:
        return warm(pool, experts, most) or 1

    def filled(store: ExpertStore, hot: Mapping[str, Sequence[int]]) -> None:
        store.asked_by_user = True
        fill(store, {path: [1, 2] for path in store.pools})

    Pool.warm, ExpertStore.fill = warmed, filled  # pyright: ignore[reportAttributeAccessIssue]
    engine.WORTH_REMEMBERING_BYTES = 0


def wait_for_a_signal() -> None:
    sys.stderr.write("waiting\n")
    sys.stderr.flush()
    threading.Event().wait(60)


def filling_and(happens: Callable[[], object]) -> Callable[[], None]:
    def prepare() -> None:
        fill_without_end()
        before(Run, "_say", happens)

    return prepare


def interrupt_the_second_answer_and_wait() -> None:
    """Whoever waits for "waiting" can send the second interrupt of an answer, however fast the model is."""
    asked = 0

    def ask() -> None:
        nonlocal asked
        asked += 1

    def say() -> None:
        if asked == 2:
            interrupt()
            wait_for_a_signal()

    before(Session, "generate", ask)
    before(Run, "_say", say)


PREPARE: dict[str, Callable[[], object]] = {
    "a prompt interrupted": interrupt_a_sweep,
    "an answer interrupted": lambda: before(Run, "_say", interrupt),
    "an answer interrupted twice": lambda: before(Run, "_say", interrupt_twice),
    "the second answer interrupted, and waiting": interrupt_the_second_answer_and_wait,
    "reading interrupted twice": lambda: before(Pool, "_settle", interrupt_twice),
    "loading interrupted": lambda: before(Pool, "pin", interrupt),
    "filling": fill_without_end,
    "filling, and an answer interrupted": filling_and(interrupt),
    "filling, and an answer interrupted twice": filling_and(interrupt_twice),
    "waiting for a signal": lambda: before(Run, "_say", wait_for_a_signal),
}


if __name__ == "__main__":
    what = sys.argv.pop(1)
    engine.plan_memory = few_slots(engine.plan_memory)
    PREPARE[what]()
    main()
