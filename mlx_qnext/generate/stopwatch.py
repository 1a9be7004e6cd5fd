"""Times one request in the terms users compare by."""

from __future__ import annotations

from time import perf_counter

from mlx_qnext.generate.events import GenerationStats


class Stopwatch:
    """Started by a request; told when the prompt is read and when tokens come."""

    def __init__(self) -> None:
        self._start = perf_counter()
        self._prefill_start = self._prefill_end = self._start
        self._first_token: float | None = None
        self._last_token = self._start

    def prefill_starts(self) -> None:
        """The prompt is rendered, and reading it begins."""
        self._prefill_start = self._prefill_end = perf_counter()

    def chunk_read(self) -> None:
        """Some more of the prompt has been read."""
        self._prefill_end = perf_counter()

    def token_came(self) -> None:
        """A group of tokens is known."""
        self._last_token = perf_counter()
        if self._first_token is None:
            self._first_token = self._last_token

    def stats(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> GenerationStats:
        """The request's figures; rates are 0 where nothing was timed."""
        first = self._last_token if self._first_token is None else self._first_token
        return GenerationStats(
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            completion_tokens=completion_tokens,
            ttft_ms=(first - self._start) * 1e3,
            prefill_tps=_rate(prompt_tokens - cached_tokens, self._prefill_end - self._prefill_start),
            decode_tps=_rate(completion_tokens - 1, self._last_token - first),
        )


def _rate(count: int, seconds: float) -> float:
    return count / seconds if count > 0 and seconds > 0 else 0.0
