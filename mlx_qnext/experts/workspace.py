"""What computing takes beside weights and caches, at its worst: while a prompt is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mlx_qnext.config import ModelConfig
from mlx_qnext.experts.pool import WAVE_EXPERTS
from mlx_qnext.ops.attention import MOST_SCORE_BYTES
from mlx_qnext.ops.device import Backend, backend

# A span is planned in steps of this many tokens, and has at least one.
SPAN_STEP = 256
MOST_SPAN_TOKENS = 32_768

# Tokens that may go through a mixer together. Larger chunks read weights less often; a CPU gains nothing from them.
_CHUNKS = (2048, 1024, 512, 256)
LARGEST_CHUNK_TOKENS = {Backend.CPU: 256, Backend.METAL: 2048, Backend.CUDA: 2048}
# The span's residual stream before and after a layer, its normed form, and that as one array for the experts.
_STREAMS = 4
# Scores before and after the softmax.
_SCORES = 2
# Arrays as wide as the recurrence's channels or its values that are alive at its peak, the latter in fp32.
_CHANNEL_ARRAYS = 4
_VALUE_ARRAYS = 10
# A wave's memory is taken as soon as it is begun, which is while the one before it is computed.
_WAVES = 2
# How often a matrix is there in full precision while it is multiplied by: as unpacked, and laid out anew.
_UNPACKED = {Backend.CPU: 2, Backend.METAL: 0, Backend.CUDA: 1}
# With as many visits for each of them on average, all experts of a layer are unpacked at once.
_UNPACK_FROM_ROWS = {Backend.CPU: 8, Backend.CUDA: 6}


class Reading(NamedTuple):
    """How a prompt is read: in chunks, which go through a mixer together, in spans, which go through a layer together where
    experts have to be fetched; and the bytes that this takes."""

    chunk_tokens: int
    span_tokens: int
    bytes: int


@dataclass(frozen=True)
class Workspace:
    """What reading a prompt takes.

    Attributes:
        itemsize: bytes of one activation. context_tokens: the longest that a prompt gets.
        kv_bits: of quantised keys and values.
    """

    config: ModelConfig
    itemsize: int
    context_tokens: int
    kv_bits: int | None = None

    @property
    def chunks(self) -> tuple[int, ...]:
        """How many tokens may go through a mixer together, most first."""
        most = LARGEST_CHUNK_TOKENS[backend()]
        return tuple(dict.fromkeys(min(size, self.context_tokens) for size in _CHUNKS if size <= most))

    @property
    def least(self) -> int:
        """The smallest that works where experts have to be fetched."""
        return self.for_span(SPAN_STEP, self.chunks[-1])

    @property
    def least_with_all(self) -> int:
        """The smallest that works where all experts are in memory, or on their way there."""
        return max(self.for_chunk(self.chunks[-1]), self.least if self.config.num_experts else 0)

    def streaming(self, most_bytes: int) -> Reading:
        """Where experts have to be fetched: the longest span that takes no more, in chunks as large as leave it that length."""
        spans = {chunk: self.largest_span(most_bytes, chunk) for chunk in self.chunks}
        chunk = max((c for c in spans if c <= spans[c] or c == self.chunks[-1]), key=lambda c: (spans[c], c))
        return Reading(chunk, spans[chunk], self.for_span(spans[chunk], chunk))

    def resident(self, most_bytes: int) -> Reading:
        """Where all experts are in memory: the largest chunk that takes no more, and the longest span while some arrive."""
        chunk = next((c for c in self.chunks if self.for_chunk(c) <= most_bytes), self.chunks[-1])
        if not self.config.num_experts:
            return Reading(chunk, chunk, self.for_chunk(chunk))
        span = self.largest_span(most_bytes, chunk)
        return Reading(chunk, span, max(self.for_chunk(chunk), self.for_span(span, chunk)))

    def for_span(self, tokens: int, chunk_tokens: int) -> int:
        """Bytes that are taken where experts have to be fetched, and `tokens` go through a layer together."""
        # While a wave is computed, the weights of the next one are already being unpacked.
        streams = tokens * _STREAMS * self.config.hidden_size * self.itemsize
        visiting = self._visiting(tokens, WAVE_EXPERTS + WAVE_EXPERTS // 2)
        return streams + max(self._mixing(min(tokens, chunk_tokens)), visiting)

    def for_chunk(self, tokens: int) -> int:
        """Bytes that are taken where all experts are in memory, and `tokens` go through the whole model together."""
        c = self.config
        visits, stack = tokens * (c.num_experts_per_tok + 1), c.num_experts + 1
        unpacks = visits >= _UNPACK_FROM_ROWS.get(backend(), visits + 1) * stack
        # Rows are gathered for their experts, and put back in order afterwards.
        sorting = 2 * visits * c.hidden_size * self.itemsize
        return max(self._mixing(tokens), self._visiting(tokens, stack if unpacks else 0) + sorting)

    def largest_span(self, most_bytes: int, chunk_tokens: int) -> int:
        """The tokens of the longest span that takes no more, in whole steps and at least one step."""
        tokens = SPAN_STEP
        most_tokens = min(MOST_SPAN_TOKENS, self.context_tokens)
        while tokens < most_tokens and self.for_span(tokens + SPAN_STEP, chunk_tokens) <= most_bytes:
            tokens += SPAN_STEP
        return tokens

    def _mixing(self, tokens: int) -> int:
        """Of attention or recurrence over a chunk, whichever takes more."""
        c = self.config
        channels = _CHANNEL_ARRAYS * (c.linear_conv_dim + c.linear_value_dim) * self.itemsize
        recurrence = channels + _VALUE_ARRAYS * c.linear_value_dim * 4
        attention_rows = 2 * (c.num_attention_heads + c.num_key_value_heads) * c.head_dim
        rows = max(attention_rows, c.linear_conv_dim + c.linear_value_dim, 2 * c.intermediate_size)
        return max(self._attending(tokens), tokens * recurrence) + self._unpacked(rows)

    def _attending(self, tokens: int) -> int:
        """Scores of the queries that are attended for together, and the plain form of quantised keys and values."""
        c = self.config
        of_a_query = c.num_attention_heads * self.context_tokens * self.itemsize
        scores = _SCORES * min(tokens * of_a_query, max(MOST_SCORE_BYTES, of_a_query))
        if self.kv_bits is None:
            return scores
        of_a_head = 2 * c.head_dim * self.context_tokens * self.itemsize
        return scores + min(c.num_key_value_heads * of_a_head, max(MOST_SCORE_BYTES, of_a_head))

    def _visiting(self, tokens: int, unpacked: int) -> int:
        """Of the experts: every visit's output, what those that are computed take, and the weights of as many of them."""
        c = self.config
        visits = (c.num_experts_per_tok + 1) * c.hidden_size
        # The shared expert is visited by all tokens, and its wave is the largest.
        wave = _WAVES * (2 * c.hidden_size + 3 * c.moe_intermediate_size)
        rows = unpacked * 3 * c.moe_intermediate_size
        return tokens * (visits + wave) * self.itemsize + self._unpacked(rows)

    def _unpacked(self, rows: int) -> int:
        return _UNPACKED[backend()] * rows * self.config.hidden_size * self.itemsize
