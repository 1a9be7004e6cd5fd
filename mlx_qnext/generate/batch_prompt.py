"""What has to be known of a request of a batch before its turn comes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_qnext.errors import TokenizerError, UsageError
from mlx_qnext.generate.answer import Answer
from mlx_qnext.generate.batch_request import BatchRequest, BatchResult
from mlx_qnext.generate.context import ContextWindow
from mlx_qnext.generate.events import Finished
from mlx_qnext.generate.notices import context_full, limits_met
from mlx_qnext.generate.sampler import Sampler
from mlx_qnext.generate.sampling import Sampling
from mlx_qnext.tokenizer import Prompt
from mlx_qnext.transcript import Transcript

if TYPE_CHECKING:
    from mlx_qnext.generate.engine import Engine


@dataclass(frozen=True)
class Prepared:
    """A request whose prompt is known.

    Attributes:
        limit: the most tokens that its answer may have.
        notices: what to say of it. when_full: what to say where the answer ends for want of room, if that is the context's.
    """

    number: int
    request: BatchRequest
    prompt: Prompt
    limit: int
    sampling: Sampling
    notices: tuple[str, ...] = ()
    when_full: str | None = None

    def result(self, answer: Finished) -> BatchResult:
        """With everything that is to be said of it."""
        full = () if self.when_full is None or answer.reason != "length" else (self.when_full,)
        return BatchResult(self.number, answer, (*self.notices, *full))

    @property
    def drafts(self) -> bool:
        """Whether drafting leaves it the tokens that plain decoding gives: with a seed, only where nothing is drawn."""
        config = self.request.config
        return config.draft != 0 and (config.seed is None or self.sampling.temperature == 0)

    def answer(self, engine: Engine) -> Answer:
        """An answer that nothing has been said of."""
        transcript = Transcript(self.prompt.opens_thinking, bool(self.request.tools))
        config = self.request.config
        return Answer(engine.tokenizer, transcript, config.stop, self.limit, config.thinking_budget)

    def sampler(self, engine: Engine) -> Sampler:
        """Draws its tokens from its own seed, whatever is answered beside it."""
        return Sampler(
            self.sampling, engine.config.vocab_size, self.prompt.token_ids, self.request.config.seed
        )


def prepared(engine: Engine, number: int, request: BatchRequest) -> Prepared:
    """The request in tokens.

    Raises:
        UsageError: no messages. TokenizerError: the template fails on them.
        ContextLengthError: the prompt leaves no room for an answer.
    """
    config, tools = request.config, request.tools
    if not request.messages:
        raise UsageError("There is nothing to answer: give at least one message.")
    window = ContextWindow(engine.plan.context_tokens)
    prompt, left_out = window.fit(
        request.messages,
        lambda kept: engine.tokenizer.prompt(kept, tools, config.thinking),
        config.when_full,
    )
    if not prompt.token_ids:
        raise TokenizerError(
            "The chat template makes nothing of these messages: use the model's own template."
        )
    room = window.limit - len(prompt.token_ids)
    asked = config.max_tokens or room
    return Prepared(
        number,
        request,
        prompt,
        min(room, asked),
        Sampling.settle(config, engine.defaults),
        limits_met(window.limit, left_out, room, asked),
        context_full(window.limit) if asked >= room else None,
    )
