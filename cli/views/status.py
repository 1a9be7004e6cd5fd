"""The line of figures below an answer while it streams, and how such a line is fitted to a width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from cli.terminal import visible
from cli.views.units import percent, rate, size, token_count, tokens
from mlx_qnext.generate.events import ExpertStats, PrefillProgress, TokensEmitted


@dataclass(frozen=True)
class Part:
    """One figure in words, and what stands before it; where there is no room for all, those of the highest rank go first."""

    text: str
    rank: int = 0
    separator: str = " · "


@dataclass(frozen=True)
class Setting:
    """What an answer's events do not tell: the model's name, and the tokens that its context holds."""

    model: str | None = None
    context_tokens: int | None = None


def fitted(parts: Sequence[Part], width: int | None) -> str:
    """The parts that find room within a width, in their order, and always one; all of them where there is no width."""
    kept = list(parts)
    while width is not None and len(kept) > 1 and cell_len(_joined(kept)) > width:
        kept.remove(max(reversed(kept), key=lambda part: part.rank))
    line = _joined(kept)
    return line if width is None or cell_len(line) <= width else set_cell_size(line, max(width - 1, 0)) + "…"


def model_parts(setting: Setting) -> list[Part]:
    """The model's name, where it is known."""
    return [] if setting.model is None else [Part(visible(setting.model), 7)]


def context_text(used: int, limit: int | None) -> str:
    """How full the context is."""
    return f"context {tokens(used)}" + ("" if limit is None else f" of {tokens(limit)}")


def _joined(parts: Sequence[Part]) -> str:
    return parts[0].text + "".join(part.separator + part.text for part in parts[1:])


class Figures:
    """What is known of an answer while it comes."""

    def __init__(self, setting: Setting, clock: Callable[[], float]) -> None:
        self._setting, self._clock = setting, clock
        self._asked_s = clock()
        self._first_s: float | None = None
        self._first_tokens = self._tokens = self._groups = 0
        self._prompt_tokens: int | None = None
        self._experts: ExpertStats | None = None

    def prefill(self, progress: PrefillProgress) -> None:
        """The prompt is read so far."""
        self._prompt_tokens = progress.total_tokens

    def emitted(self, group: TokensEmitted) -> None:
        """One step gave these tokens."""
        self._tokens += len(group.token_ids)
        self._groups += 1
        if self._first_s is None:
            self._first_s, self._first_tokens = self._clock(), self._tokens

    def experts(self, stats: ExpertStats) -> None:
        """Experts were read."""
        self._experts = stats

    def line(self, width: int) -> str:
        """The figures so far, within a width."""
        return fitted([*self._parts()], width)

    def _parts(self) -> list[Part]:
        parts = [*model_parts(self._setting), Part(token_count(self._tokens))]
        if speed := self._speed():
            parts.append(Part(rate(speed), 1))
        if self._groups and self._tokens > self._groups:
            parts.append(Part(f"{self._tokens / self._groups:.1f} a step", 2))
        if self._prompt_tokens is not None:
            used = self._prompt_tokens + self._tokens
            parts.append(Part(context_text(used, self._setting.context_tokens), 3))
        if self._experts is not None and self._experts.read_bytes:
            parts.append(Part(f"experts hit {percent(self._experts.hit_rate)}", 4))
            parts.append(Part(f"read {size(self._experts.read_bytes)}", 5, ", "))
        return parts

    def _speed(self) -> float:
        if self._first_s is None:
            return 0.0
        elapsed_s = self._clock() - self._first_s
        return (self._tokens - self._first_tokens) / elapsed_s if elapsed_s > 0 else 0.0
