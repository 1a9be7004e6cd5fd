"""What the answers of a conversation came to, taken together."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlx_qnext.generate.events import Finished


@dataclass
class Totals:
    """Counts over all answers since the conversation began here.

    Attributes:
        last: the latest answer. answers: how many there were.
        completion_tokens, prompt_tokens, cached_tokens: summed; each answer's prompt holds those before it again.
        drafted, accepted: tokens that the MTP head drafted, and those of them that stood.
        expert_hits, expert_misses, read_bytes: of the experts.
        decoding_s: spent on all tokens but each answer's first. decoded: how many those are.
        peak_bytes: the most memory that the process has held.
    """

    last: Finished | None = None
    answers: int = 0
    completion_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    expert_hits: int = 0
    expert_misses: int = 0
    read_bytes: int = 0
    decoded: int = 0
    decoding_s: float = field(default=0.0)
    peak_bytes: int = 0

    def add(self, result: Finished) -> None:
        """One more answer."""
        stats = result.stats
        self.last = result
        self.answers += 1
        self.completion_tokens += stats.completion_tokens
        self.prompt_tokens += stats.prompt_tokens
        self.cached_tokens += stats.cached_tokens
        if stats.decode_tps:
            self.decoded += stats.completion_tokens - 1
            self.decoding_s += (stats.completion_tokens - 1) / stats.decode_tps
        if stats.mtp is not None:
            self.drafted += stats.mtp.drafted
            self.accepted += stats.mtp.accepted
        if stats.experts is not None:
            self.expert_hits += stats.experts.hits
            self.expert_misses += stats.experts.misses
            self.read_bytes += stats.experts.read_bytes
        if stats.memory is not None:
            self.peak_bytes = max(self.peak_bytes, stats.memory.peak_bytes)

    @property
    def decode_tps(self) -> float:
        """Over all answers; 0 where nothing was timed."""
        return self.decoded / self.decoding_s if self.decoding_s else 0.0
