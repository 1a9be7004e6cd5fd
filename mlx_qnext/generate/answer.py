"""One answer as it grows: tokens become text, text becomes thinking, answer and tool calls, and a stop string ends it."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_qnext.generate.stop_strings import StopStrings
from mlx_qnext.tokenizer import Tokenizer
from mlx_qnext.transcript import Kind, Segment, Transcript


class Answer:
    """Collects what the model says until it ends.

    Stop strings are looked for in the answer proper, not in the thinking: a thought may well mention one.

    Attributes:
        token_count: tokens taken so far, the one that ended it included.
        ended: an end-of-answer token or a stop string has come.
    """

    def __init__(self, tokenizer: Tokenizer, transcript: Transcript, stop: Sequence[str], limit: int) -> None:
        self._detokenizer, self._eos_ids = tokenizer.detokenizer(), tokenizer.eos_ids
        self._transcript, self._stop = transcript, StopStrings(stop)
        self._limit = limit
        self._said: list[Segment] = []
        self.token_count = 0
        self.ended = False

    @property
    def full(self) -> bool:
        """As many tokens have come as the request allows."""
        return self.token_count >= self._limit

    def push(self, token: int) -> list[Segment]:
        """The segments that became certain with this token."""
        self.token_count += 1
        if token in self._eos_ids:
            self.ended = True
            return []
        return self._take(self._transcript.push(self._detokenizer.push(token)))

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
