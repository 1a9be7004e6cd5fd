"""A thought that outgrows its budget is closed by force, and everything goes on as if the model had closed it there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from pooled import DEMO, Pooled, pooled
from test_continued import check_whole, finished, reply, user

from mlx_qnext import Engine, GenerationConfig, Session
from mlx_qnext.errors import CheckpointError, UsageError
from mlx_qnext.generate.events import Finished, Notice, TokensEmitted
from mlx_qnext.generate.sampler import Sampler
from mlx_qnext.generate.sampling import Sampling
from mlx_qnext.model.qwen3_next import Model
from mlx_qnext.transcript import THOUGHT_END

GREEDY = GenerationConfig(temperature=0.0, seed=0, max_tokens=24)
SUM = [user("What is 47 + 85?")]


@dataclass(frozen=True)
class Said:
    """One answer: its tokens, what was told beside them, and how it ended."""

    tokens: list[int]
    notices: list[str]
    result: Finished


def said(session: Session, config: GenerationConfig, messages: Sequence[Any] = SUM) -> Said:
    *events, last = session.generate(messages, config)
    assert isinstance(last, Finished)
    tokens = [token for event in events if isinstance(event, TokensEmitted) for token in event.token_ids]
    return Said(tokens, [event.message for event in events if isinstance(event, Notice)], last)


def closed_by_hand(engine: Engine, config: GenerationConfig, budget: int) -> list[int]:
    """The greedy answer token by token, with the end of the thought after `budget` tokens of it."""
    prompt = engine.tokenizer.prompt(SUM).token_ids
    sampling = Sampling.settle(config, engine.defaults)
    opening, closing = engine.tokenizer.encode("<think>")[0], engine.tokenizer.encode(THOUGHT_END)
    tokens, closes_at, cache = list[int](), None, engine.model.make_cache()
    logits = engine.model(mx.array([prompt]), cache)
    while len(tokens) < (config.max_tokens or 0):
        if len(tokens) == closes_at:
            following = closing
        else:
            sampler = Sampler(sampling, engine.config.vocab_size, prompt, 0)
            sampler.answer_holds(tokens)
            following = [int(sampler(logits[0, -1]).item())]
        closes_at = len(tokens) + 1 + budget if following == [opening] else closes_at
        tokens += following
        if following[-1] in engine.tokenizer.eos_ids:
            break
        logits = engine.model(mx.array([following]), cache)
    return tokens


@pytest.mark.parametrize(
    ("budget", "draft"),
    [(0, 0), (7, 0), (0, 2), (1, 2), (6, 2), (7, 2), pytest.param(8, 2, marks=pytest.mark.slow)],
)
def test_the_answer_goes_on_from_where_the_thought_was_closed(
    engine: Engine, budget: int, draft: int
) -> None:
    session = engine.session()
    answer = said(session, replace(GREEDY, draft=draft, thinking_budget=budget))
    assert answer.tokens == closed_by_hand(engine, GREEDY, budget)
    assert answer.result.stats.completion_tokens == len(answer.tokens)
    assert answer.result.thought_end == "budget"
    assert answer.result.text
    assert len(answer.notices) == 1
    assert ("at once" if budget == 0 else f"after {budget} token") in answer.notices[0]
    assert session.tokens == (*engine.tokenizer.prompt(SUM).token_ids, *answer.tokens)
    assert session._timeline.cache.head_follows == (draft > 0)
    check_whole(session, engine)


@pytest.mark.parametrize("draft", [0, 2])
def test_a_budget_that_is_never_reached_changes_nothing(engine: Engine, draft: int) -> None:
    config, hello = replace(GREEDY, draft=draft, max_tokens=None), [user("Who are you?")]
    free, bound = (said(engine.session(), replace(config, thinking_budget=b), hello) for b in (None, 300))
    assert bound.tokens == free.tokens
    assert bound.notices == []
    assert bound.result.thought_end == "closed"


@pytest.mark.parametrize("draft", [0, 2])
def test_the_next_turn_is_what_a_fresh_session_says(engine: Engine, draft: int) -> None:
    config, session = replace(GREEDY, draft=draft, thinking_budget=9), engine.session()
    first = said(session, config)
    messages = [*SUM, reply(first.result), user("And plus 10?")]
    second, fresh = (said(each, config, messages) for each in (session, engine.session()))
    assert second.tokens == fresh.tokens
    assert second.result.stats.cached_tokens > 0
    check_whole(session, engine)


@pytest.mark.parametrize("draft", [0, 2])
def test_penalties_see_what_was_said_and_nothing_that_was_drawn_beyond_it(engine: Engine, draft: int) -> None:
    config = replace(GREEDY, presence_penalty=3.0, repetition_penalty=1.2)
    answer = said(engine.session(), replace(config, draft=draft, thinking_budget=6))
    assert answer.tokens == closed_by_hand(engine, config, 6)


def test_without_room_to_close_it_and_answer_the_thought_is_cut_off(engine: Engine) -> None:
    closing = len(engine.tokenizer.encode(THOUGHT_END))
    for room, end in ((closing, "unclosed"), (closing + 1, "budget")):
        # The opening marker is no part of the thought.
        answer = said(engine.session(), replace(GREEDY, thinking_budget=5, max_tokens=1 + 5 + room))
        assert answer.result.thought_end == end
        assert (answer.result.reason, len(answer.tokens)) == ("length", 6 + room)
        assert bool(answer.result.text) == (end == "budget")


def test_an_answer_without_a_thought_has_no_end_of_one(engine: Engine) -> None:
    answer = said(engine.session(), replace(GREEDY, thinking=False, thinking_budget=0))
    assert answer.result.thought_end is None
    assert answer.notices == []


@pytest.mark.parametrize("after", [TokensEmitted, Notice])
def test_a_session_left_while_its_thought_is_closed_goes_on(engine: Engine, after: type) -> None:
    session, config = engine.session(), replace(GREEDY, draft=2, thinking_budget=3)
    closing = tuple(engine.tokenizer.encode(THOUGHT_END))
    events = session.generate(SUM, config)
    for event in events:
        if isinstance(event, after) and getattr(event, "token_ids", closing) == closing:
            session.cancel()
            break
    *_, last = events
    assert isinstance(last, Finished)
    assert (last.reason, last.text, last.thought_end) == ("cancelled", "", "budget")
    check_whole(session, engine)
    assert said(session, config).tokens == said(engine.session(), config).tokens


def test_where_it_cannot_be_closed_nothing_of_the_answer_stays(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, config = engine.session(), replace(GREEDY, draft=0, thinking_budget=3)
    hidden = Model.hidden

    def failing(model: Model, tokens: mx.array, *rest: Any) -> mx.array:
        states = hidden(model, tokens, *rest)
        if tokens.shape[1] == len(engine.tokenizer.encode(THOUGHT_END)):
            raise CheckpointError("An expert cannot be read.")
        return states

    with monkeypatch.context() as patched:
        patched.setattr(Model, "hidden", failing)
        with pytest.raises(CheckpointError):
            said(session, config)
    assert session.tokens == engine.tokenizer.prompt(SUM).token_ids
    assert said(session, config).tokens == said(engine.session(), config).tokens


@pytest.fixture(scope="module")
def few() -> Iterator[Pooled]:
    """The embedded model with room for a quarter of its experts."""
    with pooled(Path(DEMO), 8) as model:
        yield model


@pytest.mark.parametrize("draft", [0, 2])
def test_where_experts_are_missing_it_is_the_same(engine: Engine, few: Pooled, draft: int) -> None:
    streamed = replace(engine, model=few.model, store=few.store)
    config, session = replace(GREEDY, draft=draft, thinking_budget=6), streamed.session()
    assert not few.model.complete
    answer = said(session, config)
    assert answer.tokens == closed_by_hand(engine, GREEDY, 6)
    messages = [*SUM, reply(answer.result), user("And plus 10?")]
    assert finished(session, messages, config).text == finished(engine.session(), messages, config).text
    check_whole(session, engine)


@pytest.mark.parametrize("budget", [-1, 2.5])
def test_a_budget_that_cannot_be_meant_is_refused(budget: Any) -> None:
    with pytest.raises(UsageError, match="thinking budget is"):
        GenerationConfig(thinking_budget=budget)
