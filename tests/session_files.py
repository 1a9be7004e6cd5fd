"""A small session as it is saved, made up, and what makes saving one fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx

from mlx_qnext.cache.frozen import Frozen
from mlx_qnext.sessions.identity import Identity
from mlx_qnext.sessions.library import SessionLibrary

IDENTITY = Identity("demo", "0a1b", "fe", None, "float32")
MESSAGES = [
    {"role": "user", "content": "What is 47 + 85?"},
    {"role": "assistant", "content": "132 — \N{GRINNING FACE}", "reasoning_content": "7 + 5"},
]
SETTINGS = {"temperature": 0.6, "thinking": None}
FACTS = {"position": 3, "tokens": [5, 6, 7], "snapshots": [{"position": 2, "head": None}]}


def made_up(fill: float = 1.5) -> Frozen:
    """Arrays of every kind that a cache has, unevaluated, one of them not contiguous and one empty."""
    rows = mx.arange(24, dtype=mx.float32).reshape(1, 2, 3, 4)
    return Frozen(
        {
            "layers.0.keys": (rows * fill).astype(mx.bfloat16).swapaxes(1, 2),
            "layers.0.values.0": (rows * 1000).astype(mx.uint32),
            "layers.1.state": rows + fill,
            "layers.1.window": mx.zeros((1, 0, 4), mx.float16),
        },
        dict(FACTS),
    )


def same(one: Frozen, other: Frozen) -> bool:
    return (
        one.facts == other.facts
        and one.arrays.keys() == other.arrays.keys()
        and all(_same(array, other.arrays[name]) for name, array in one.arrays.items())
    )


def _same(one: mx.array, other: mx.array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and bool(mx.array_equal(one, other))


def saved(library: SessionLibrary, name: str = "one", fill: float = 1.5, **changes: Any) -> None:
    """A session of this name is in the library."""
    with library.create(name) as opened:
        assert opened.save(made_up(fill), MESSAGES, SETTINGS, replace(IDENTITY, **changes)) is None


def full(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(*_: object, **__: object) -> int:
    raise KeyboardInterrupt


def after(calls: int, real: Callable[..., Any], failing: Callable[..., Any]) -> Callable[..., Any]:
    """What is real so many times, and fails from then on."""
    left = iter(range(calls))

    def called(*args: Any, **keywords: Any) -> Any:
        return (failing if next(left, None) is None else real)(*args, **keywords)

    return called
