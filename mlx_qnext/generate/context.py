"""What happens where a conversation outgrows its context: the request is refused, or its oldest turns are left out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from mlx_qnext.errors import ContextLengthError
from mlx_qnext.generate.request import WhenFull
from mlx_qnext.tokenizer import Message, Prompt

# With less than this part of the context left for the answer, turns are left out until so much of it is read.
_LEAST_ROOM = 8
_READ_AFTERWARDS = 2


@dataclass
class ContextWindow:
    """What of one conversation is still read.

    Leaving out a turn means reading all later ones again, once. So many go at a time, and stay away in later requests.

    Attributes:
        limit: tokens of prompt and answer together.
        left_out: messages after the leading system messages that are read no more.
    """

    limit: int
    left_out: list[Message] = field(default_factory=list)

    def fit(
        self, messages: Sequence[Message], prompt_of: Callable[[Sequence[Message]], Prompt], policy: WhenFull
    ) -> tuple[Prompt, int]:
        """The prompt of these messages, or of those that are still read; and how many are left out from now on.

        Raises:
            ContextLengthError: it leaves no room for an answer; nothing may be left out, or the last turn alone is too long.
        """
        kept = self.kept(messages)
        prompt = prompt_of(kept)
        before = len(messages) - len(kept)
        if policy == "drop" and self._crowded(prompt):
            prompt, kept = self._shortened(kept, prompt, prompt_of)
        if len(prompt.token_ids) >= self.limit:
            raise ContextLengthError(self._too_long(prompt, policy))
        leading = len(_leading(messages))
        left_out = len(messages) - len(kept)
        self.left_out = list(messages[leading : leading + left_out])
        return prompt, left_out - before

    def kept(self, messages: Sequence[Message]) -> list[Message]:
        """Without what was left out before, where this is the same conversation."""
        leading, count = _leading(messages), len(self.left_out)
        rest = list(messages[len(leading) :])
        return [*leading, *(rest[count:] if rest[:count] == self.left_out else rest)]

    def _crowded(self, prompt: Prompt) -> bool:
        return len(prompt.token_ids) > self.limit - self.limit // _LEAST_ROOM

    def _shortened(
        self, messages: list[Message], prompt: Prompt, prompt_of: Callable[[Sequence[Message]], Prompt]
    ) -> tuple[Prompt, list[Message]]:
        """Without as many of the oldest turns as have to go, and with the last one whatever happens."""
        leading = _leading(messages)
        rest = messages[len(leading) :]
        turns = [at for at, message in enumerate(rest) if message.get("role") == "user"][1:]
        if not turns:
            return prompt, messages
        most = self.limit // _READ_AFTERWARDS
        # The later a conversation begins, the shorter it is.
        first = bisect_left(
            turns, True, key=lambda at: len(prompt_of([*leading, *rest[at:]]).token_ids) <= most
        )
        kept = [*leading, *rest[turns[min(first, len(turns) - 1)] :]]
        return prompt_of(kept), kept

    def _too_long(self, prompt: Prompt, policy: WhenFull) -> str:
        tokens = len(prompt.token_ids)
        found = f"The prompt has {tokens} tokens and the context holds {self.limit}: "
        if policy == "drop":
            return f"{found}shorten the last message by at least {tokens - self.limit + 1} tokens."
        return (
            f"{found}shorten the prompt by at least {tokens - self.limit + 1} tokens, start with a longer --context, or let "
            "the oldest turns be left out with --when-full drop."
        )


def _leading(messages: Sequence[Message]) -> list[Message]:
    return list(takewhile(lambda message: message.get("role") == "system", messages))
