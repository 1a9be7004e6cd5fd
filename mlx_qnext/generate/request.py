"""What a caller asks of one generation, checked where it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from mlx_qnext.errors import UsageError

WhenFull: TypeAlias = Literal["stop", "drop"]

# Beyond this a draft hardly ever stands, and a verification costs more for every one.
DEEPEST_DRAFT = 4


@dataclass(frozen=True)
class GenerationConfig:
    """Sampling, limits and thinking of one request; `None` means "as the model's generation_config.json says".

    Attributes:
        temperature: below 1e-5 is greedy. top_k: 0 is off. top_p: in (0, 1]. min_p: in [0, 1).
        repetition_penalty: 1 is off; over prompt and answer (Keskar et al. 2019, as in transformers).
        presence_penalty: 0 is off; subtracted once from every token that the answer already holds (as in vLLM).
        seed: fixes the random draws; `None` draws a fresh one.
        max_tokens: the most tokens of thought and answer; `None` is what the context leaves.
        stop: the answer ends before the first of these strings; the string itself is not part of it.
        draft: how many tokens the MTP head drafts a round, 0 to 4; `None` chooses by what pays, and 0 is plain decoding.
        thinking: `False` skips the thought, `None` leaves it to the template.
        thinking_budget: a thought that is still open after so many tokens is closed by force, where the answer then has room;
            `None` lets it end by itself.
        when_full: what becomes of a prompt that the context has no room for: `stop` refuses it, `drop` leaves out the oldest
            turns.

    Raises:
        UsageError: a value that cannot be meant.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = field(default=())
    draft: int | None = None
    thinking: bool | None = None
    thinking_budget: int | None = None
    when_full: WhenFull = "stop"

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, low=0.0, high=100.0)
        _check("top-k", self.top_k, low=0, whole=True)
        _check("top-p", self.top_p, low=0.0, high=1.0, low_open=True)
        _check("min-p", self.min_p, low=0.0, high=1.0, high_open=True)
        _check("repetition penalty", self.repetition_penalty, low=0.0, high=10.0, low_open=True)
        _check("presence penalty", self.presence_penalty, low=-10.0, high=10.0)
        _check("seed", self.seed, low=0, high=2**64 - 1, whole=True)
        _check("max tokens", self.max_tokens, low=1, whole=True)
        _check("thinking budget", self.thinking_budget, low=0, whole=True)
        _check("draft", self.draft, low=0, high=DEEPEST_DRAFT, whole=True)
        if self.when_full not in get_args(WhenFull):
            raise UsageError(f"when full is {self.when_full!r}, expected stop or drop.")
        if any(not text for text in self.stop):
            raise UsageError("A stop string is empty and would end every answer at once: leave it out.")


def _check(
    name: str,
    value: float | None,
    *,
    low: float,
    high: float = math.inf,
    low_open: bool = False,
    high_open: bool = False,
    whole: bool = False,
) -> None:
    if value is None:
        return
    above = value > low if low_open else value >= low
    below = value < high if high_open else value <= high
    if not (math.isfinite(value) and above and below and (isinstance(value, int) or not whole)):
        left, right = "(" if low_open else "[", ")" if high_open or high == math.inf else "]"
        kind = "whole number" if whole else "number"
        raise UsageError(f"{name} is {value}, expected a {kind} in {left}{low:g}, {high:g}{right}.")
