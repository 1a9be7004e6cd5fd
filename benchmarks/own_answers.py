"""The conversation as this engine's sessions hold it, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from time import perf_counter

from dialogue import Answerer, Message, Reply, Turn

from mlx_qnext import Engine, GenerationConfig
from mlx_qnext.generate.events import Finished, TokensEmitted
from mlx_qnext.generate.session import Session
from mlx_qnext.generate.timeline import shared_length


def answerer(engine: Engine, limit: int, *, draft: int | None, reads_ahead: bool = False) -> Answerer:
    """A fresh session that answers one request after another.

    Args:
        draft: as in `GenerationConfig`.
        reads_ahead: before each request but the first it reads what will be the past by then, as long as that takes.
    """
    session = engine.session()

    def answer(messages: Sequence[Message]) -> Reply:
        start = perf_counter()
        ahead = session.read_ahead(messages[:-1]) if reads_ahead and len(messages) > 2 else 0
        ahead_ms = (perf_counter() - start) * 1e3 if ahead else 0.0
        return reply(session, messages, limit, draft, ahead_tokens=ahead, ahead_ms=ahead_ms)

    return answer


def reply(
    session: Session,
    messages: Sequence[Message],
    limit: int,
    draft: int | None,
    *,
    ahead_tokens: int = 0,
    ahead_ms: float = 0.0,
    load_ms: float = 0.0,
) -> Reply:
    """A greedy answer of at most `limit` tokens, timed from outside."""
    start = perf_counter()
    first_token = first_text = finished = None
    for event in session.generate(messages, GenerationConfig(temperature=0.0, max_tokens=limit, draft=draft)):
        if isinstance(event, TokensEmitted):
            first_token = first_token or perf_counter()
            if first_text is None and any(segment.text.strip() for segment in event.segments):
                first_text = perf_counter()
        if isinstance(event, Finished):
            finished = event
    if first_token is None or first_text is None or finished is None:
        raise RuntimeError("the session ended a reply without any text")
    return Reply(
        text=finished.text,
        thinking=finished.thinking,
        completion_tokens=finished.stats.completion_tokens,
        prompt_tokens=finished.stats.prompt_tokens,
        cached_tokens=finished.stats.cached_tokens,
        text_ms=(first_text - start) * 1e3,
        token_ms=(first_token - start) * 1e3,
        ahead_tokens=ahead_tokens,
        ahead_ms=ahead_ms,
        load_ms=load_ms,
    )


def new_tokens(engine: Engine, turns: Sequence[Turn], *, read_ahead: bool) -> list[int]:
    """How many tokens of each turn's prompt are new, counted in the prompts alone.

    Those beyond what it shares with the prompt before: the visible answer, because the session has seen it after its thought,
    and the question. With `read_ahead` the question alone, from the marker with which its message begins.
    """
    prompts = [engine.tokenizer.prompt(turn.messages).token_ids for turn in turns]
    (marker,) = engine.tokenizer.encode("<|im_start|>")
    new = [len(prompts[0])]
    for before, prompt in pairwise(prompts):
        # The last marker belongs to the generation prompt.
        question = [at for at, token in enumerate(prompt) if token == marker][-2]
        new.append(len(prompt) - (question if read_ahead else shared_length(before, prompt)))
    return new
