"""One answer as it grows: tokens become text, text becomes thinking, answer and tool calls, and a stop string ends it."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_qnext.generate.events import ThoughtEnd
from mlx_qnext.generate.stop_strings import StopStrings
from mlx_qnext.tokenizer import Tokenizer
from mlx_qnext.transcript import THOUGHT_END, Kind, Segment, Transcript


class Answer:
    """Collects what the model says until it ends.

    Stop strings are looked for in the answer proper, not in the thinking: a thought may well mention one.

    Attributes:
        token_count: tokens taken so far, the one that ended it included.
        ended: an end-of-answer token or a stop string has come.
        thought_tokens: how many of them came while a thought was open.
        closing_tokens: the tokens that close a thought by force.

    Args:
        limit: the most tokens. budget: the most that a thought may have before it is closed by force; `None` is any number.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        transcript: Transcript,
        stop: Sequence[str],
        limit: int,
        budget: int | None = None,
    ) -> None:
        self.closing_tokens = () if budget is None else tuple(tokenizer.encode(THOUGHT_END))
        self._budget, self._thought, self._forced = budget, transcript.thinks, False
        self._detokenizer, self._eos_ids = tokenizer.detokenizer(), tokenizer.eos_ids
        self._transcript, self._stop = transcript, StopStrings(stop)
        self._limit = limit
        self._said: list[Segment] = []
        self.token_count = self.thought_tokens = 0
        self.ended = False

    @property
    def full(self) -> bool:
        """As many tokens have come as the request allows."""
        return self.token_count >= self._limit

    @property
    def overthinks(self) -> bool:
        """A thought is open, its budget is used up, and there is room to close it and answer."""
        if self._budget is None or not self._transcript.thinks or self.ended:
            return False
        return (
            self.thought_tokens >= self._budget and self.token_count + len(self.closing_tokens) < self._limit
        )

    @property
    def thought_end(self) -> ThoughtEnd | None:
        """How the thought has come to its end so far; `None` where there is none."""
        if not self._thought:
            return None
        return "unclosed" if self._transcript.thinks else "budget" if self._forced else "closed"

    def push(self, token: int) -> list[Segment]:
        """The segments that became certain with this token."""
        self.token_count += 1
        self.thought_tokens += self._transcript.thinks
        if token in self._eos_ids:
            self.ended = True
            return []
        segments = self._take(self._transcript.push(self._detokenizer.push(token)))
        self._thought |= self._transcript.thinks
        return segments

    def close_thought(self) -> list[Segment]:
        """The segments that became certain because the thought is closed by force, with the tokens of `closing_tokens`."""
        self._forced = True
        return [segment for token in self.closing_tokens for segment in self.push(token)]

    def finish(self) -> list[Segment]:
        """What was held back until now; nothing where a stop string ended the answer."""
        if self._stop.found:
            return []
        pending = self._transcript.push(self._detokenizer.flush()) + self._transcript.flush()
        segments = self._take(pending)
        rest = self._stop.flush()
        if rest:
            segments.append(self._record(Segment("answer", rest)))
        return segments

    def text(self, kind: Kind) -> str:
        """All text of one kind so far."""
        return "".join(self.texts(kind))

    def texts(self, kind: Kind) -> tuple[str, ...]:
        """The pieces of one kind so far; each tool call is one piece."""
        return tuple(segment.text for segment in self._said if segment.kind == kind)

    def _take(self, segments: list[Segment]) -> list[Segment]:
        taken: list[Segment] = []
        for segment in segments:
            text = self._stop.push(segment.text) if segment.kind == "answer" else segment.text
            if text:
                taken.append(self._record(Segment(segment.kind, text)))
            if self._stop.found:
                self.ended = True
                break
        return taken

    def _record(self, segment: Segment) -> Segment:
        self._said.append(segment)
        return segment
