"""A session answers, remembers, and goes on from wherever it was left: on the embedded model's trained weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from tolerances import CONTINUED_TRAINED

import mlx_qnext
from mlx_qnext import Engine, GenerationConfig, Session
from mlx_qnext.errors import ContextLengthError, MemoryLimitError, UsageError
from mlx_qnext.generate.events import Event, Finished, Notice, PrefillProgress, TokensEmitted

GREEDY = GenerationConfig(temperature=0.0, seed=0)
BRIEF = replace(GREEDY, max_tokens=12)
SUM = [{"role": "user", "content": "What is 47 + 85?"}]


def finished(events: Iterator[Event]) -> Finished:
    *_, last = events
    assert isinstance(last, Finished)
    return last


def answered(messages: list[dict[str, str]], answer: Finished, question: str) -> list[dict[str, str]]:
    reply = {"role": "assistant", "content": answer.text, "reasoning_content": answer.thinking}
    return [*messages, reply, {"role": "user", "content": question}]


def next_logits(session: Session, model: Callable[..., mx.array]) -> np.ndarray:
    """What the session would say next, without moving it."""
    timeline = session._timeline
    before = timeline.cache.snapshot()
    logits = model(mx.array([[7]]), timeline.cache.layers)[0, -1]
    mx.eval(logits)
    timeline.cache.advance(1)
    timeline.cache.rewind(before)
    return np.array(logits)


def test_it_thinks_and_answers_a_sum(engine: Engine) -> None:
    result = finished(engine.session().generate(SUM, GREEDY))
    assert result.reason == "stop"
    assert "132" in result.text
    assert "carry 1" in result.thinking
    assert "<" not in result.text + result.thinking


def test_without_thinking_the_thought_is_empty(engine: Engine) -> None:
    result = finished(engine.session().generate(SUM, replace(GREEDY, thinking=False)))
    assert result.thinking == ""
    assert "132" in result.text


def test_the_events_tell_the_whole_answer(engine: Engine) -> None:
    *events, last = engine.session().generate(SUM, GREEDY)
    assert isinstance(last, Finished)
    groups = [event for event in events if isinstance(event, TokensEmitted)]
    assert sum(len(group.token_ids) for group in groups) == last.stats.completion_tokens
    for kind, text in (("answer", last.text), ("thinking", last.thinking)):
        assert "".join(s.text for group in groups for s in group.segments if s.kind == kind) == text
    progress = [event for event in events if isinstance(event, PrefillProgress)]
    assert [p.done_tokens for p in progress] == sorted(p.done_tokens for p in progress)
    assert progress[-1].done_tokens == progress[-1].total_tokens == last.stats.prompt_tokens


@pytest.mark.parametrize("draft", [0, 2])
def test_a_seed_and_a_depth_fix_a_sampled_answer(engine: Engine, draft: int) -> None:
    config = GenerationConfig(temperature=4.0, top_k=0, top_p=1.0, seed=11, max_tokens=12, draft=draft)
    first, second = (finished(engine.session().generate(SUM, config)) for _ in range(2))
    other = finished(engine.session().generate(SUM, replace(config, seed=12)))
    assert (first.text, first.thinking) == (second.text, second.thinking)
    assert (first.text, first.thinking) != (other.text, other.thinking)


def test_a_token_limit_ends_the_answer_with_length(engine: Engine) -> None:
    result = finished(engine.session().generate(SUM, replace(GREEDY, max_tokens=5)))
    assert (result.reason, result.stats.completion_tokens) == ("length", 5)


def test_a_stop_string_ends_the_answer_before_itself_and_spares_the_thought(engine: Engine) -> None:
    whole = finished(engine.session().generate(SUM, GREEDY))
    assert "13" in whole.thinking
    result = finished(engine.session().generate(SUM, replace(GREEDY, stop=("13",))))
    assert result.reason == "stop"
    assert result.thinking == whole.thinking
    assert result.text == whole.text.split("13")[0]


def test_a_tool_call_comes_apart_from_the_answer_only_when_tools_were_offered(engine: Engine) -> None:
    tools = [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "Current weather in a city",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}},
                    "required": ["city"],
                },
            },
        }
    ]
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    result = finished(engine.session().generate(messages, GREEDY, tools=tools))
    assert "<tool_call>" not in result.text
    assert len(result.tool_calls) == 1
    assert '"name"' in result.tool_calls[0]


def test_the_next_turn_reads_only_what_is_new(engine: Engine) -> None:
    session = engine.session()
    first = finished(session.generate(SUM, GREEDY))
    messages = answered(SUM, first, "And plus 10?")
    second = finished(session.generate(messages, GREEDY))
    history = engine.tokenizer.prompt(SUM).lasting_tokens
    assert first.stats.cached_tokens == 0
    assert second.stats.cached_tokens >= history
    assert "142" in second.text


def test_continuing_gives_what_a_fresh_session_gives(engine: Engine) -> None:
    session = engine.session()
    messages = SUM
    for question in ("And plus 10?", "Who are you?"):
        messages = answered(messages, finished(session.generate(messages, GREEDY)), question)
    continued, fresh = session, engine.session()
    results = [finished(s.generate(messages, BRIEF)) for s in (continued, fresh)]
    assert results[0].thinking == results[1].thinking
    CONTINUED_TRAINED.check(
        next_logits(continued, engine.model), next_logits(fresh, engine.model), "continued"
    )


@pytest.mark.parametrize("draft", [0, 2])
def test_asking_again_reads_nothing(engine: Engine, draft: int) -> None:
    session, config = engine.session(), replace(BRIEF, draft=draft)
    first = finished(session.generate(SUM, config))
    again = finished(session.generate(SUM, config))
    assert again.thinking == first.thinking
    assert again.stats.cached_tokens == again.stats.prompt_tokens


@pytest.mark.parametrize("after_tokens", [1, 5])
def test_cancelling_from_another_thread_keeps_what_was_said(engine: Engine, after_tokens: int) -> None:
    session, said = engine.session(), 0
    events = session.generate(SUM, BRIEF)
    for event in events:
        said += len(event.token_ids) if isinstance(event, TokensEmitted) else 0
        if said >= after_tokens:
            canceller = threading.Thread(target=session.cancel)
            canceller.start()
            canceller.join()
            break
    result = finished(events)
    whole = finished(engine.session().generate(SUM, BRIEF))
    assert result.reason == "cancelled"
    assert result.stats.completion_tokens == said
    assert (whole.thinking + whole.text).startswith(result.thinking + result.text)
    assert finished(session.generate(SUM, BRIEF)).thinking == whole.thinking


def test_cancelling_while_the_prompt_is_read_keeps_what_was_read(engine: Engine) -> None:
    session = engine.session()
    messages = [{"role": "user", "content": "one two three four " * 150}]
    events = session.generate(messages, replace(GREEDY, max_tokens=3))
    for event in events:
        if isinstance(event, PrefillProgress) and event.done_tokens:
            session.cancel()
            break
    result = finished(events)
    assert (result.reason, result.stats.completion_tokens, result.text) == ("cancelled", 0, "")
    assert len(session._timeline.tokens) == session._timeline.cache.position > 0
    fresh = finished(engine.session().generate(messages, replace(GREEDY, max_tokens=3)))
    assert finished(session.generate(messages, replace(GREEDY, max_tokens=3))).thinking == fresh.thinking


@pytest.mark.parametrize("leave_after", [1, 2, 3, 4, 8])
def test_an_abandoned_answer_leaves_a_session_that_goes_on(engine: Engine, leave_after: int) -> None:
    session = engine.session()
    events = session.generate(SUM, BRIEF)
    for _ in range(leave_after):
        next(events)
    events.close()  # pyright: ignore[reportAttributeAccessIssue]
    expected = finished(engine.session().generate(SUM, BRIEF))
    assert finished(session.generate(SUM, BRIEF)).thinking == expected.thinking
    assert len(session._timeline.tokens) == session._timeline.cache.position


@pytest.mark.parametrize("max_tokens", [1, 2, 100])
def test_the_cache_holds_exactly_the_tokens_that_were_emitted(engine: Engine, max_tokens: int) -> None:
    session = engine.session()
    events = list(session.generate(SUM, replace(GREEDY, max_tokens=max_tokens)))
    emitted = [t for event in events if isinstance(event, TokensEmitted) for t in event.token_ids]
    timeline = session._timeline
    assert timeline.tokens == [*engine.tokenizer.prompt(SUM).token_ids, *emitted]
    assert timeline.cache.position == len(timeline.tokens)
    cache = engine.model.make_cache()
    engine.model(mx.array([timeline.tokens]), cache)
    expected = np.array(engine.model(mx.array([[7]]), cache)[0, -1])
    CONTINUED_TRAINED.check(
        next_logits(session, engine.model), expected, "emitted tokens against a fresh cache"
    )


def test_no_messages_and_too_long_a_prompt_are_refused_in_one_sentence(engine: Engine) -> None:
    with pytest.raises(UsageError, match="nothing to answer"):
        engine.session().generate([], GREEDY)
    context = engine.config.max_position_embeddings
    with pytest.raises(ContextLengthError, match=f"context holds {context}"):
        engine.session().generate([{"role": "user", "content": "7 " * context}], GREEDY)


def test_a_limit_that_the_context_cannot_hold_is_said_before_anything_else(engine: Engine) -> None:
    events = engine.session().generate(SUM, replace(GREEDY, max_tokens=10**6))
    first = next(events)
    assert isinstance(first, Notice)
    assert "1000000" in first.message


def test_what_slows_every_answer_down_is_said_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(engine.plan, slots=dict.fromkeys(engine.plan.slots, 8))
    monkeypatch.setattr(engine.store, "in_place", False)
    session = replace(engine, plan=few).session()
    first, second = (list(session.generate(SUM, replace(GREEDY, max_tokens=1))) for _ in range(2))
    told = [event.message for event in first if isinstance(event, Notice)]
    assert len(told) == 2
    assert "25%" in told[0]
    assert "copied once more" in told[1]
    assert not [event for event in second if isinstance(event, Notice)]


def test_too_little_memory_is_refused_with_what_works() -> None:
    with pytest.raises(MemoryLimitError, match=r"needs 0\.\d\d GB .* 0\.00 GB are given"):
        mlx_qnext.load("demo", memory_bytes=5_000_000)
