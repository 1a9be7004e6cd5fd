"""Drafting changes how fast an answer comes, and neither the answer nor what the session then holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from fakes.drafting import ScriptedDepth, scripted
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kernels import kernels
from test_verification import check_caches
from tolerances import CONTINUED_TRAINED

import mlx_qnext
from demo.cases import Case, cases
from mlx_qnext import Engine, GenerationConfig, Session
from mlx_qnext.generate import session as session_module
from mlx_qnext.generate.decode import decode
from mlx_qnext.generate.drafter import Drafter
from mlx_qnext.generate.events import Finished, Notice, TokensEmitted
from mlx_qnext.generate.prefill import prefill
from mlx_qnext.generate.sampler import Sampler
from mlx_qnext.generate.sampling import Sampling
from mlx_qnext.generate.speculative import Speculation
from mlx_qnext.model.qwen3_next import Model

GREEDY = GenerationConfig(temperature=0.0, seed=0)
SUM = [{"role": "user", "content": "What is 47 + 85?"}]
HELLO = [{"role": "user", "content": "Who are you?"}]
NOT_HELD_OUT = {"talk", "recall"}


def held_out(count: int, *, thinking: bool, tasks: frozenset[str] = frozenset()) -> list[Case]:
    return [case for case in cases(count, thinking, tasks) if case.task not in NOT_HELD_OUT]


def emitted(
    session: Session, messages: Sequence[Any], config: GenerationConfig, tools: Any = None
) -> list[int]:
    """The tokens of the whole answer."""
    events = session.generate(messages, config, tools)
    return [t for event in events if isinstance(event, TokensEmitted) for t in event.token_ids]


def check_identical(engine: Engine, case: Case, max_tokens: int) -> None:
    """Depths 1 to 4 and then none, each from the prompt that the same session holds."""
    config = replace(GREEDY, max_tokens=max_tokens, thinking=None if case.thinking else False)
    session, tools = engine.session(), list(case.chat.tools) or None
    answers = [emitted(session, case.messages, replace(config, draft=d), tools) for d in (1, 2, 3, 4, 0)]
    for depth, answer in enumerate(answers[:-1], 1):
        assert answer == answers[-1], f"depth {depth}, {case.messages[-1]['content']}"


@pytest.mark.parametrize(("task", "thinking"), [("add", True), ("capital", False), ("clock", False)])
def test_greedy_answers_are_those_of_plain_decoding(engine: Engine, task: str, *, thinking: bool) -> None:
    for case in held_out(1, thinking=thinking, tasks=frozenset({task})):
        check_identical(engine, case, max_tokens=30)


def check_greedy(engine: Engine, case: Case, depth: int, max_tokens: int) -> None:
    """Every token of the answer at this depth is what one plain pass over prompt and answer would say there."""
    thinking, tools = None if case.thinking else False, list(case.chat.tools) or None
    session, config = engine.session(), replace(GREEDY, draft=depth, max_tokens=max_tokens, thinking=thinking)
    answer = emitted(session, case.messages, config, tools)
    assert len(answer) == max_tokens or answer[-1] in engine.tokenizer.eos_ids
    prompt, timeline = engine.tokenizer.prompt(case.messages, tools, thinking).token_ids, session._timeline
    # From where the session is back in its prompt, before anything was drafted.
    start = timeline.reuse(prompt[:-1])
    logits = engine.model(mx.array([[*prompt, *answer[:-1]][start:]]), cache=timeline.cache.layers)
    choices = logits[0, len(prompt) - 1 - start :].argmax(axis=-1).tolist()
    assert answer == choices, f"depth {depth}, {case.messages[-1]['content']}"


@pytest.mark.slow
@pytest.mark.parametrize(("thinking", "each", "asked"), [(True, 2, 64), (False, 5, 160)])
def test_greedy_answers_to_224_held_out_prompts_are_those_of_plain_decoding(
    engine: Engine, *, thinking: bool, each: int, asked: int
) -> None:
    prompts = held_out(each, thinking=thinking)
    assert len(prompts) == asked
    for n, case in enumerate(prompts):
        check_greedy(engine, case, 1 + n % 4, max_tokens=20)


@pytest.mark.slow
def test_unquantised_weights_draft_the_same_way(bf16_checkpoint: Path) -> None:
    engine = mlx_qnext.load(bf16_checkpoint)
    prompts = held_out(2, thinking=True, tasks=frozenset({"subtract", "story"}))
    assert len(prompts) == 4
    for depth, case in enumerate(prompts, 1):
        check_greedy(engine, case, depth, max_tokens=60)


def test_auto_says_what_plain_decoding_says(engine: Engine) -> None:
    auto, plain = (emitted(engine.session(), SUM, replace(GREEDY, draft=draft)) for draft in (None, 0))
    assert auto == plain


def test_a_round_emits_what_it_verified_as_one_group(engine: Engine) -> None:
    *events, last = engine.session().generate(SUM, replace(GREEDY, draft=3))
    assert isinstance(last, Finished)
    mtp = last.stats.mtp
    assert mtp is not None
    groups = [event.token_ids for event in events if isinstance(event, TokensEmitted) and event.token_ids]
    assert max(map(len, groups)) == 4
    assert mtp.rounds == sum(1 for _ in groups[4:])
    assert mtp.drafted == 3 * mtp.rounds
    assert sum(len(group) - 1 for group in groups) <= mtp.accepted <= mtp.drafted
    assert mtp.tokens_per_step == pytest.approx(1 + mtp.accepted / len(groups))


def test_only_passes_that_were_timed_alone_are_measured(engine: Engine) -> None:
    session = engine.session()
    session._depth = depth = ScriptedDepth([0, 0, 0, 2, 2, 0, 0])
    emitted(session, SUM, replace(GREEDY, max_tokens=11))
    # The first plain step, and the one after a round, do not wait for their own work.
    assert [(d, seconds is None) for d, _, seconds in depth.seen] == [
        (0, True),
        (0, False),
        (0, False),
        (2, False),
        (2, False),
        (0, True),
        (0, False),
    ]


def test_over_a_prompt_the_head_follows_without_its_experts(engine: Engine) -> None:
    session = engine.session()
    emitted(session, HELLO, replace(GREEDY, draft=2, max_tokens=1))
    prompt, head = engine.tokenizer.prompt(HELLO).token_ids, session._timeline.cache.head
    assert head is not None
    assert head.kv.offset == len(prompt) - 1
    assert engine.model.mtp is not None
    hidden, tokens, fresh = mx.zeros((1, 9, 256)), mx.arange(9)[None], engine.model.mtp.make_cache()
    engine.model.mtp(hidden, tokens, fresh)
    assert kernels(fresh.keys, fresh.values)["GatherQMM"] == 0


@dataclass(frozen=True)
class Known:
    """A prompt, and what the model says to it greedily, past its end."""

    messages: list[dict[str, str]]
    thinking: bool | None
    prompt: list[int]
    said: list[int]


@pytest.fixture(scope="module", params=[(HELLO, None), (SUM, False)], ids=["thinking", "not thinking"])
def known(engine: Engine, request: pytest.FixtureRequest) -> Known:
    messages, thinking = request.param
    prompt = engine.tokenizer.prompt(messages, thinking=thinking).token_ids
    timeline = engine.session()._timeline
    *_, read = prefill(engine.model, timeline, prompt)
    hidden = read.hidden
    sampler = Sampler(Sampling(0.0, 0, 1.0, 0.0, 1.0, 0.0), engine.config.vocab_size, [], 0)
    groups = decode(engine.model, timeline, hidden, sampler)
    return Known(messages, thinking, list(prompt), [next(groups)[0] for _ in range(60)])


def check_holds(engine: Engine, session: Session, tokens: list[int]) -> None:
    """The session's cache, the MTP head's part too, is that of a session fed exactly these tokens."""
    timeline, fresh = session._timeline, engine.session()._timeline
    model, head, memory = engine.model, timeline.cache.head, fresh.cache.head
    assert timeline.tokens == tokens
    assert timeline.cache.position == len(tokens)
    assert model.mtp is not None
    assert head is not None
    assert memory is not None
    for _ in prefill(model, fresh, tokens, drafter=Drafter(model, model.mtp, fresh, memory)):
        pass
    check_caches(timeline.cache.layers, fresh.cache.layers)
    mark = head.mark()
    Drafter(model, model.mtp, timeline, head).catch_up()
    check_caches([head.kv], [memory.kv])
    for ours, expected in zip(head.waiting, memory.waiting, strict=True):
        CONTINUED_TRAINED.check(np.array(ours), np.array(expected), "waiting state")
    head.rewind(mark)


rounds = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12)
ends = st.sampled_from(["eos", "limit", "stop string", "cancel", "leave"])


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(rounds, ends, st.data())
def test_after_any_rounds_and_any_end_the_session_holds_exactly_what_was_emitted(
    engine: Engine, known: Known, pattern: list[tuple[int, int]], end: str, data: st.DataObject
) -> None:
    check_rounds(engine, known, pattern, end, data)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(rounds, ends, st.data())
def test_after_many_more_rounds_too(
    engine: Engine, known: Known, pattern: list[tuple[int, int]], end: str, data: st.DataObject
) -> None:
    check_rounds(engine, known, pattern, end, data)


def check_rounds(
    engine: Engine, known: Known, pattern: list[tuple[int, int]], end: str, data: st.DataObject
) -> None:
    """Rounds of these depths, of whose drafts so many stand, up to this end."""
    session, config = engine.session(), replace(GREEDY, draft=1, thinking=known.thinking)
    depths = [depth for depth, _ in pattern]
    session._depth = ScriptedDepth([*depths, 4])
    if end == "limit":
        config = replace(config, max_tokens=data.draw(st.integers(1, 30)))
    if end == "stop string":
        config = replace(config, stop=(data.draw(st.sampled_from(["am", "13", "e", "."])),))
    leave_after = data.draw(st.integers(1, 12)) if end in ("cancel", "leave") else 10**6
    accepted = [accepted for depth, accepted in pattern if depth]
    tokens: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "Drafter", scripted(known.said, len(known.prompt), accepted))
        events = session.generate(known.messages, config)
        for event in events:
            tokens += event.token_ids if isinstance(event, TokensEmitted) else ()
            leave_after -= isinstance(event, TokensEmitted)
            if leave_after == 0 and end == "leave":
                events.close()  # pyright: ignore[reportAttributeAccessIssue]
                break
            if leave_after == 0:
                session.cancel()
    assert tokens == known.said[: len(tokens)]
    assert tokens
    check_holds(engine, session, [*known.prompt, *tokens])
    brief = replace(GREEDY, draft=2, max_tokens=6)
    question = [
        *known.messages,
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "And 5 + 6?"},
    ]
    assert emitted(session, question, brief) == emitted(engine.session(), question, brief)


@pytest.mark.slow
@settings(max_examples=4, deadline=None)
@given(st.lists(st.sampled_from([None, 0, 1, 3, 4]), min_size=2, max_size=4), st.data())
def test_turns_that_draft_and_turns_that_do_not_leave_one_memory(
    engine: Engine, depths: list[int | None], data: st.DataObject
) -> None:
    session, messages = engine.session(), [dict(HELLO[0])]
    for draft in [*depths, 2]:
        config = replace(GREEDY, draft=draft, max_tokens=data.draw(st.integers(1, 6)))
        tokens, fresh = emitted(session, messages, config), emitted(engine.session(), messages, config)
        assert tokens == fresh
        if data.draw(st.booleans(), label="go on"):
            reply = {"role": "assistant", "content": engine.tokenizer.decode(tokens)}
            messages = [
                *messages,
                reply,
                {"role": "user", "content": data.draw(st.sampled_from(["And?", "5 + 6"]))},
            ]
    check_holds(engine, session, list(session._timeline.tokens))


def without_head(engine: Engine) -> Engine:
    model = engine.model
    return replace(engine, model=Model(engine.config, model.model, model.lm_head))


@pytest.mark.parametrize("draft", [None, 2])
def test_without_a_head_one_note_a_session_says_so_and_the_answer_is_the_same(
    engine: Engine, draft: int | None
) -> None:
    session = without_head(engine).session()
    config = replace(GREEDY, draft=draft, max_tokens=5)
    first, second = (list(session.generate(HELLO, config)) for _ in range(2))
    notes = [event.message for event in (*first, *second) if isinstance(event, Notice)]
    assert len(notes) == 1
    assert "--mtp-from" in notes[0]
    assert isinstance(first[-1], Finished)
    assert first[-1].stats.mtp is None
    assert emitted(session, HELLO, config) == emitted(engine.session(), HELLO, config)


def test_who_asks_for_no_drafts_is_told_nothing(engine: Engine) -> None:
    events = list(without_head(engine).session().generate(HELLO, replace(GREEDY, draft=0, max_tokens=3)))
    assert not [event for event in events if isinstance(event, Notice)]


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 3])
def test_sampled_groups_of_the_trained_model_follow_plain_samplings_distribution(
    engine: Engine, depth: int
) -> None:
    sampling, model = Sampling(12.0, 3, 0.98, 0.02, 1.1, 0.7), engine.model
    prompt = engine.tokenizer.prompt(HELLO).token_ids
    timeline = engine.session()._timeline
    assert model.mtp is not None
    assert timeline.cache.head is not None
    drafter = Drafter(model, model.mtp, timeline, timeline.cache.head)
    *_, read = prefill(model, timeline, prompt, drafter=drafter)
    hidden = read.hidden
    start = timeline.cache.snapshot()
    draws, counts = 250, Counter[tuple[int, ...]]()
    for seed in range(draws):
        timeline.cache.rewind(start)
        del timeline.tokens[len(prompt) :]
        sampler = Sampler(sampling, engine.config.vocab_size, prompt, seed)
        groups = Speculation(model, timeline, sampler, drafter, ScriptedDepth([depth])).groups(hidden)
        while len(timeline.tokens) < len(prompt) + 3:
            next(groups)
        counts[tuple(timeline.tokens[len(prompt) :][:3])] += 1
    expected = {said: draws * p for said, p in joint(engine, sampling, prompt, 3).items()}
    assert set(counts) <= set(expected)
    rare = [said for said, count in expected.items() if count < 5]
    cells = [(counts[said], count) for said, count in expected.items() if count >= 5]
    cells.append((sum(counts[said] for said in rare), sum(expected[said] for said in rare)))
    chi_square = sum((seen - count) ** 2 / count for seen, count in cells if count)
    freedom = len(cells) - 1
    assert freedom >= 8
    # 0.1 % of fair draws lie 3.1 standard deviations out, by Wilson and Hilferty's approximation; the seeds are fixed.
    bound = freedom * (1 - 2 / (9 * freedom) + 3.1 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert chi_square < bound


def joint(
    engine: Engine, sampling: Sampling, prompt: Sequence[int], length: int, said: tuple[int, ...] = ()
) -> dict[tuple[int, ...], float]:
    """The probability of every way in which plain sampling can go on for `length` tokens."""
    if len(said) == length:
        return {said: 1.0}
    sampler = Sampler(sampling, engine.config.vocab_size, prompt, 0)
    for token in said:
        sampler._see(mx.arange(engine.config.vocab_size) == token)
    logits = engine.model(mx.array([[*prompt, *said]]))[0, -1]
    probabilities = np.array(mx.softmax(sampler._scores(logits)), np.float64)
    found: dict[tuple[int, ...], float] = {}
    for token in np.flatnonzero(probabilities).tolist():
        rest = joint(engine, sampling, prompt, length, (*said, token))
        found |= {whole: probabilities[token] * p for whole, p in rest.items()}
    return found
