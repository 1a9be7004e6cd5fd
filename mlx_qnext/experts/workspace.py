"""What computing takes beside weights and caches, at its worst: while a prompt is read."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_qnext.config import ModelConfig
from mlx_qnext.ops.device import Backend, backend

# A span is planned in steps of this many tokens, and has at least one.
SPAN_STEP = 256
MOST_SPAN_TOKENS = 32_768

# Tokens that go through a mixer together, and experts that are computed with together while others are read.
_CHUNK_TOKENS = {Backend.CPU: 256, Backend.METAL: 2048, Backend.CUDA: 2048}
_WAVE_EXPERTS = 16
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


@dataclass(frozen=True)
class Workspace:
    """What reading a prompt takes.

    Attributes:
        itemsize: bytes of one activation. context_tokens: the longest that a prompt gets.
    """

    config: ModelConfig
    itemsize: int
    context_tokens: int

    def for_span(self, tokens: int) -> int:
        """Bytes that are taken where experts have to be fetched, and `tokens` go through a layer together."""
        # While a wave is computed, the weights of the next one are already being unpacked.
        streams = tokens * _STREAMS * self.config.hidden_size * self.itemsize
        return streams + max(self._mixing(tokens), self._visiting(tokens, _WAVE_EXPERTS + _WAVE_EXPERTS // 2))

    def for_chunk(self) -> int:
        """Bytes that are taken where all experts are in memory."""
        c, tokens = self.config, self.chunk_tokens
        visits, stack = tokens * (c.num_experts_per_tok + 1), c.num_experts + 1
        unpacks = visits >= _UNPACK_FROM_ROWS.get(backend(), visits + 1) * stack
        # Rows are gathered for their experts, and put back in order afterwards.
        sorting = 2 * visits * c.hidden_size * self.itemsize
        return max(self._mixing(tokens), self._visiting(tokens, stack if unpacks else 0) + sorting)

    @property
    def chunk_tokens(self) -> int:
        """Tokens that go through the whole model together where all experts are in memory."""
        return min(_CHUNK_TOKENS[backend()], self.context_tokens)

    def largest_span(self, most_bytes: int) -> int:
        """The tokens of the longest span that takes no more, in whole steps and at least one step."""
        tokens = SPAN_STEP
        most_tokens = min(MOST_SPAN_TOKENS, self.context_tokens)
        while tokens < most_tokens and self.for_span(tokens + SPAN_STEP) <= most_bytes:
            tokens += SPAN_STEP
        return tokens

    def _mixing(self, tokens: int) -> int:
        """Of attention or recurrence over a chunk, whichever takes more."""
        c, chunk = self.config, min(tokens, self.chunk_tokens)
        scores = _SCORES * c.num_attention_heads * self.context_tokens * self.itemsize
        channels = _CHANNEL_ARRAYS * (c.linear_conv_dim + c.linear_value_dim) * self.itemsize
        recurrence = channels + _VALUE_ARRAYS * c.linear_value_dim * 4
        attention_rows = 2 * (c.num_attention_heads + c.num_key_value_heads) * c.head_dim
        rows = max(attention_rows, c.linear_conv_dim + c.linear_value_dim, 2 * c.intermediate_size)
        return chunk * max(scores, recurrence) + self._unpacked(rows)

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
