"""What a running generation tells its front ends: plain scalars and text, never an array.

A stream is any number of `PrefillProgress`, `TokensEmitted`, `ExpertActivity` and `Notice`, then exactly one `Finished`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from mlx_qnext.transcript import Segment

FinishReason = Literal["stop", "length", "cancelled"]
ThoughtEnd = Literal["closed", "budget", "unclosed"]


@dataclass(frozen=True)
class PrefillProgress:
    """`done_tokens` of the prompt's `total_tokens` are in the cache; the first `cached_tokens` of them were there before."""

    done_tokens: int
    total_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class TokensEmitted:
    """One verified group of tokens, and the text that became certain with it.

    `segments` may be empty: a character or a marker can still be incomplete, and then comes with a later group.
    """

    token_ids: tuple[int, ...]
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Notice:
    """Something the user should know and need not act on: a fallback taken, a limit met. One sentence."""

    message: str


@dataclass(frozen=True)
class MtpStats:
    """What drafting with the MTP head came to in one answer.

    Attributes:
        rounds: passes of the model that verified drafts; the others were plain steps.
        drafted, accepted: tokens drafted in them, and those of them that stood.
        acceptance: for each depth the share of drafts that stood, of all that were made there.
        tokens_per_step: tokens per pass of the model, plain steps included.
        speedup_estimate: `decode_tps` over that of plain steps, of which every answer begins with a few; `None` where none was
            timed.
    """

    rounds: int
    drafted: int
    accepted: int
    acceptance: tuple[float, ...]
    tokens_per_step: float
    speedup_estimate: float | None


@dataclass(frozen=True)
class ExpertStats:
    """Where the experts that one request used came from.

    Attributes:
        hits, misses: distinct experts of a layer's visit that were in the layer's pool, and that had to be read.
        read_bytes: bytes of experts read from the checkpoint, as they are stored there.
        evicted: experts whose slot was given to another one.
        resident_bytes, total_bytes: experts in memory now, and all that the model has, as they are held in memory.
    """

    hits: int
    misses: int
    read_bytes: int
    evicted: int
    resident_bytes: int
    total_bytes: int

    @property
    def hit_rate(self) -> float:
        """The share of visits' experts that were in memory; 1 where none was asked for."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 1.0

    @property
    def resident_share(self) -> float:
        """The share of all experts, by their bytes, that is in memory; 1 where the model has none."""
        return self.resident_bytes / self.total_bytes if self.total_bytes else 1.0


@dataclass(frozen=True)
class ExpertActivity:
    """Experts were read: the request's figures so far. Comes after the prompt, and after groups of tokens."""

    stats: ExpertStats


@dataclass(frozen=True)
class MemoryStats:
    """Memory as it was planned before the model was loaded, and the most that the process has held since it began."""

    planned_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class GenerationStats:
    """Counts and speeds of one answer.

    Attributes:
        prompt_tokens: tokens of the rendered prompt, the cached ones included.
        cached_tokens: of these, how many were taken from the session's cache instead of being read again.
        completion_tokens: tokens of thought and answer, the stop token and those that closed the thought by force included.
        ttft_ms: from the request to the first sampled token.
        prefill_tps: uncached prompt tokens per second of prefill.
        decode_tps: sampled tokens after the first, per second after the first; 0 when there is one token or none.
        mtp: of the drafts; `None` where nothing drafted.
        experts: of the experts' reading; `None` where all were loaded before the first request.
        memory: planned and used; `None` where nothing was planned.
        forecast_tps: what had been forecast for plain decoding of this model within this memory; `None` where nothing had been.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    ttft_ms: float
    prefill_tps: float
    decode_tps: float
    mtp: MtpStats | None = None
    experts: ExpertStats | None = None
    memory: MemoryStats | None = None
    forecast_tps: float | None = None


@dataclass(frozen=True)
class Finished:
    """The answer is complete.

    `text` is the answer, `thinking` the thought without its markers, `tool_calls` the bodies of `<tool_call>` blocks
    when the request offered tools. `reason` is `stop` (the model ended, or a stop string came), `length` or `cancelled`.
    `thought_end` says whether the model `closed` the thought, its `budget` did, or it is `unclosed` and there is no answer;
    `None` is no thought.
    """

    reason: FinishReason
    text: str
    thinking: str
    tool_calls: tuple[str, ...]
    stats: GenerationStats
    thought_end: ThoughtEnd | None = None


Event: TypeAlias = PrefillProgress | TokensEmitted | ExpertActivity | Notice | Finished
