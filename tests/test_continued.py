"""Whatever became of a conversation, its session goes on as a fresh one would, and reads only what is new."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import CONTINUED_TRAINED

from mlx_qnext import Engine, GenerationConfig, Session
from mlx_qnext.cache.frozen import Frozen
from mlx_qnext.errors import ContextLengthError
from mlx_qnext.generate.checkpoints import Marks
from mlx_qnext.generate.events import Finished, Notice
from mlx_qnext.generate.prefill import prefill
from mlx_qnext.generate.timeline import Timeline, shared_length
from mlx_qnext.model import sweep as sweep_module

BRIEF = GenerationConfig(temperature=0.0, seed=0, max_tokens=4)
SYSTEM = [{"role": "system", "content": "Be brief."}]
QUESTIONS = ["What is 47 + 85?", "Who are you?", "And plus 10?", "one two three " * 30]

Messages = list[dict[str, Any]]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def finished(session: Session, messages: Sequence[Any], config: GenerationConfig = BRIEF) -> Finished:
    *_, last = session.generate(messages, config)
    assert isinstance(last, Finished)
    return last


def reply(answer: Finished) -> dict[str, Any]:
    return {"role": "assistant", "content": answer.text, "reasoning_content": answer.thinking}


def logits_after(session: Session, engine: Engine) -> np.ndarray:
    """What comes after the session's tokens and one more, from a fork of it."""
    forked = session.fork()
    return np.array(engine.model(mx.array([[7]]), forked._timeline.cache.layers)[0, -1])


def logits_afresh(tokens: Sequence[int], engine: Engine) -> np.ndarray:
    return np.array(engine.model(mx.array([[*tokens, 7]]), engine.model.make_cache())[0, -1])


def check_whole(session: Session, engine: Engine) -> None:
    timeline = session._timeline
    assert len(timeline.tokens) == timeline.cache.position
    assert len(timeline.checkpoints.positions) <= engine.plan.checkpoints
    CONTINUED_TRAINED.check(
        logits_after(session, engine), logits_afresh(session.tokens, engine), "continued against afresh"
    )


@dataclass
class Conversation:
    """A session and what was said in it; every step leaves both as a front end would."""

    engine: Engine
    draft: int
    session: Session = field(init=False)
    messages: Messages = field(default_factory=lambda: list(SYSTEM))

    def __post_init__(self) -> None:
        self.session = self.engine.session()

    def ask(self, text: str, *, thinking: bool = True) -> None:
        asked = [*self.messages, user(text)]
        config = replace(BRIEF, draft=self.draft, thinking=None if thinking else False)
        prompt = self.engine.tokenizer.prompt(asked, None, config.thinking)
        shared = shared_length(self.session.tokens, prompt.token_ids)
        answer = finished(self.session, asked, config)
        assert answer.stats.cached_tokens <= shared
        assert answer.stats.prompt_tokens == len(prompt.token_ids)
        self.messages = [*asked, reply(answer)]

    def again(self) -> None:
        if len(self.messages) > 2:
            question = self.messages[-2]["content"]
            self.messages = self.messages[:-2]
            self.ask(question)

    def edit(self, number: int, text: str) -> None:
        self.messages = self.messages[: 1 + 2 * number]
        self.ask(text)

    def branch(self) -> None:
        """Go on in a fork; the session forked from says something else in between."""
        left, self.session = self.session, self.session.fork()
        finished(left, [*self.messages, user("What is 2 + 2?")], replace(BRIEF, draft=self.draft))

    def ahead(self) -> None:
        self.session.read_ahead(self.messages)

    def store(self) -> None:
        frozen, self.session = self.session.freeze(), self.engine.session()
        self.session.thaw(frozen)


STEPS = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(QUESTIONS), st.booleans()),
    st.tuples(st.just("edit"), st.integers(0, 2), st.sampled_from(QUESTIONS)),
    *(st.tuples(st.just(name)) for name in ("again", "branch", "ahead", "store")),
)
SCRIPTS = st.lists(STEPS, min_size=2, max_size=6)


def check_script(engine: Engine, draft: int, script: list[Any]) -> None:
    conversation = Conversation(engine, draft)
    conversation.ask(QUESTIONS[0])
    for name, *arguments in script:
        if name == "ask":
            conversation.ask(arguments[0], thinking=arguments[1])
        else:
            getattr(conversation, name)(*arguments)
        timeline = conversation.session._timeline
        assert len(timeline.tokens) == timeline.cache.position
    check_whole(conversation.session, engine)


def test_a_script_of_edits_leaves_what_a_fresh_session_has(engine: Engine) -> None:
    script = [
        ("ahead",),
        ("ask", QUESTIONS[2], True),
        ("branch",),
        ("store",),
        ("again",),
        ("edit", 1, "Hello"),
    ]
    check_script(engine, 2, script)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(st.sampled_from([0, 1, 3]), SCRIPTS)
def test_any_script_of_edits_leaves_what_a_fresh_session_has(
    engine: Engine, draft: int, script: list[Any]
) -> None:
    check_script(engine, draft, script)


def test_with_the_same_chunks_going_on_is_reading_it_all_to_the_bit(engine: Engine) -> None:
    tokens = list(range(5, 205))
    whole, parted = (engine.session()._timeline for _ in range(2))
    *_, expected = prefill(engine.model, whole, tokens, marks=Marks(50, 150), chunk_tokens=64)
    for _ in prefill(engine.model, parted, tokens, marks=Marks(50, 150), chunk_tokens=64):
        pass
    for _ in prefill(engine.model, parted, [*parted.tokens, 9, 9, 9], chunk_tokens=64):
        pass
    assert parted.reuse([*tokens[:150], 1]) == 150
    *_, actual = prefill(engine.model, parted, tokens, chunk_tokens=64)
    assert expected.hidden is not None
    assert actual.hidden is not None
    assert (np.array(actual.hidden) == np.array(expected.hidden)).all()


def test_long_prompts_leave_positions_to_come_back_to(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_qnext.generate.prefill.CHECKPOINT_EVERY_TOKENS", 64)
    timeline = engine.session()._timeline
    for _ in prefill(engine.model, timeline, list(range(300)), chunk_tokens=32):
        pass
    assert timeline.checkpoints.positions == (*range(64, 300, 64), 300)


class TestTurns:
    def test_a_turn_reads_the_visible_answer_and_the_question(self, engine: Engine) -> None:
        session, messages = engine.session(), [*SYSTEM, user("What is 47 + 85?")]
        first = finished(session, messages, replace(BRIEF, max_tokens=90))
        before = engine.tokenizer.prompt(messages)
        messages = [*messages, reply(first), user("And plus 10?")]
        second = finished(session, messages)
        prompt = engine.tokenizer.prompt(messages)
        assert first.thinking
        assert second.stats.cached_tokens == shared_length(before.token_ids, prompt.token_ids)

    def test_asking_again_and_editing_go_back_instead_of_reading_anew(self, engine: Engine) -> None:
        session, messages = engine.session(), [*SYSTEM]
        marks = []
        for question in QUESTIONS[:3]:
            messages = [*messages, user(question)]
            marks.append(engine.tokenizer.prompt(messages).lasting_tokens)
            messages = [*messages, reply(finished(session, messages))]
        again = finished(session, messages[:-1])
        assert again.stats.cached_tokens >= marks[2]
        edited = finished(session, [*messages[:3], user("Who made you?")])
        assert edited.stats.cached_tokens >= marks[0]

    def test_a_new_conversation_keeps_the_system_message(self, engine: Engine) -> None:
        session = engine.session()
        finished(session, [*SYSTEM, user(QUESTIONS[0])])
        other = finished(session, [*SYSTEM, user("Who are you?")])
        system = engine.tokenizer.prompt([*SYSTEM, user("x")]).system_tokens
        assert other.stats.cached_tokens >= system > 0

    def test_forks_do_not_hear_each_other(self, engine: Engine) -> None:
        session, messages = engine.session(), [*SYSTEM, user(QUESTIONS[0])]
        messages = [*messages, reply(finished(session, messages))]
        fork = session.fork()
        one = finished(session, [*messages, user("Who are you?")], replace(BRIEF, max_tokens=20))
        two = finished(fork, [*messages, user("And plus 10?")], replace(BRIEF, max_tokens=20))
        for each, question, answer in ((session, "Who are you?", one), (fork, "And plus 10?", two)):
            check_whole(each, engine)
            fresh = finished(engine.session(), [*messages, user(question)], replace(BRIEF, max_tokens=20))
            assert (answer.text, answer.thinking) == (fresh.text, fresh.thinking)


class TestReadingAhead:
    def test_it_leaves_the_next_turn_its_question_alone(self, engine: Engine) -> None:
        session, messages = engine.session(), [*SYSTEM, user("What is 47 + 85?")]
        messages = [*messages, reply(finished(session, messages, replace(BRIEF, max_tokens=90)))]
        expected = finished(session.fork(), [*messages, user("And plus 10?")], replace(BRIEF, max_tokens=40))
        read = session.read_ahead(messages)
        assert read > 0
        check_whole(session, engine)
        actual = finished(session, [*messages, user("And plus 10?")], replace(BRIEF, max_tokens=40))
        assert actual.stats.cached_tokens == len(engine.tokenizer.common_start(messages))
        assert (actual.text, actual.thinking) == (expected.text, expected.thinking)

    def test_it_runs_in_another_thread(self, engine: Engine) -> None:
        session, messages = engine.session(), [*SYSTEM, user("one two three " * 20)]
        messages = [*messages, reply(finished(session, messages))]
        thread = threading.Thread(target=session.read_ahead, args=(messages,))
        thread.start()
        thread.join()
        check_whole(session, engine)
        assert finished(session, [*messages, user("Who are you?")]).stats.cached_tokens == len(
            engine.tokenizer.common_start(messages)
        )

    @pytest.mark.parametrize(("layers", "kept"), [(3, 0), (11, 1)])
    def test_cancelled_it_ends_after_the_layer_and_keeps_whole_spans(
        self, engine: Engine, layers: int, kept: int
    ) -> None:
        session = engine.session()
        messages = [*SYSTEM, user("Hello"), {"role": "assistant", "content": "one two three " * 60}]
        cancelled, passed = threading.Event(), 0
        step = sweep_module._mix

        def counted(*arguments: Any) -> mx.array:
            nonlocal passed
            passed += 1
            if passed == layers:
                cancelled.set()
            return step(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sweep_module, "_mix", counted)
            read = session.read_ahead(messages, cancelled=cancelled)
        assert passed == layers
        assert (read > 0) == bool(kept)
        assert read < len(engine.tokenizer.common_start(messages))
        check_whole(session, engine)
        assert session.read_ahead(messages, cancelled=cancelled) == 0

    def test_where_tools_were_called_it_waits_for_their_results(self, engine: Engine) -> None:
        call = {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "f", "arguments": {}}}],
        }
        assert engine.session().read_ahead([*SYSTEM, user("Hello"), call]) == 0


class TestContext:
    @staticmethod
    def small(engine: Engine, tokens: int) -> Session:
        return replace(engine, plan=replace(engine.plan, context_tokens=tokens)).session()

    def test_beyond_it_a_prompt_is_refused_with_both_ways_out(self, engine: Engine) -> None:
        with pytest.raises(ContextLengthError, match=r"holds 64: .*--context.*--when-full drop"):
            self.small(engine, 64).generate([user("one two three " * 60)], BRIEF)

    def test_an_answer_that_fills_it_says_so(self, engine: Engine) -> None:
        *events, last = self.small(engine, 40).generate(
            [user("What is 47 + 85?")], replace(BRIEF, max_tokens=None)
        )
        assert isinstance(last, Finished)
        assert last.reason == "length"
        assert last.stats.prompt_tokens + last.stats.completion_tokens == 40
        assert any(isinstance(e, Notice) and "context of 40 tokens is full" in e.message for e in events)

    def test_the_oldest_turns_go_and_stay_away(self, engine: Engine) -> None:
        session, drop = self.small(engine, 200), replace(BRIEF, when_full="drop")
        messages: Messages = list(SYSTEM)
        told, cached = [], []
        for turn in range(9):
            messages = [*messages, user(f"Question {turn}: one two three four five")]
            *events, last = session.generate(messages, drop)
            assert isinstance(last, Finished)
            assert last.stats.prompt_tokens < 200
            told += [turn for e in events if isinstance(e, Notice) and "left out" in e.message]
            cached.append(last.stats.cached_tokens)
            messages = [*messages, reply(last)]
        # Several turns at a time, so that what remains is read anew now and then and not every time.
        assert 1 <= len(told) <= 3
        system = engine.tokenizer.prompt([*SYSTEM, user("x")]).system_tokens
        assert [turn for turn, tokens in enumerate(cached[1:], 1) if tokens <= system] == told
        assert "Question 8" in engine.tokenizer.decode(session.tokens)
        assert "Question 0" not in engine.tokenizer.decode(session.tokens)
        assert "Be brief" in engine.tokenizer.decode(session.tokens)

    def test_a_message_that_is_too_long_alone_is_refused_all_the_same(self, engine: Engine) -> None:
        session, drop = self.small(engine, 64), replace(BRIEF, when_full="drop")
        messages = [user("Hello"), {"role": "assistant", "content": "Hi"}, user("one two three " * 60)]
        with pytest.raises(ContextLengthError, match="shorten the last message"):
            session.generate(messages, drop)


@pytest.fixture(scope="module")
def frozen(engine: Engine) -> Frozen:
    session = engine.session()
    finished(session, [*SYSTEM, user(QUESTIONS[0])], replace(BRIEF, draft=2))
    return session.freeze()


class TestFreezing:
    def test_it_holds_every_position_and_goes_on_from_any(self, engine: Engine, frozen: Frozen) -> None:
        session = engine.session()
        session.thaw(frozen)
        check_whole(session, engine)
        again = finished(session, [*SYSTEM, user(QUESTIONS[0])], replace(BRIEF, draft=2))
        assert (
            again.stats.cached_tokens == engine.tokenizer.prompt([*SYSTEM, user(QUESTIONS[0])]).lasting_tokens
        )

    def test_its_arrays_hold_no_more_than_what_is_in_use(self, engine: Engine, frozen: Frozen) -> None:
        tokens = len(frozen.facts["tokens"])
        assert {a.shape[2] for name, a in frozen.arrays.items() if name.endswith((".keys", ".values"))} <= {
            tokens,
            frozen.facts["head"]["entries"],
        }

    @pytest.mark.parametrize("lacking", ["layers.3.keys", "layers.0.state", "snapshots.0.layers.0.window"])
    def test_what_does_not_fit_is_refused(self, engine: Engine, frozen: Frozen, lacking: str) -> None:
        arrays = {name: array for name, array in frozen.arrays.items() if name != lacking}
        with pytest.raises(ValueError, match=lacking):
            engine.session().thaw(replace(frozen, arrays=arrays))
        wrong = {**frozen.arrays, lacking: frozen.arrays[lacking][..., :-1]}
        with pytest.raises(ValueError, match=lacking):
            engine.session().thaw(replace(frozen, arrays=wrong))

    @pytest.mark.parametrize(
        "facts", [{"position": 3}, {"tokens": [1, 2]}, {"position": -1}, {"snapshots": None}, {"head": None}]
    )
    def test_facts_that_lie_are_refused(self, engine: Engine, frozen: Frozen, facts: dict[str, Any]) -> None:
        session = engine.session()
        with pytest.raises(ValueError):
            session.thaw(replace(frozen, facts={**frozen.facts, **facts}))
        assert session.tokens == ()

    def test_what_was_left_out_stays_away_after_thawing(self, engine: Engine) -> None:
        session, drop = TestContext.small(engine, 120), replace(BRIEF, when_full="drop")
        messages: Messages = [*SYSTEM, *(user(f"Question {n}: one two three four five") for n in range(8))]
        finished(session, messages, drop)
        thawed = TestContext.small(engine, 120)
        thawed.thaw(session.freeze())
        again = finished(thawed, messages, drop)
        assert again.stats.cached_tokens == again.stats.prompt_tokens

    def test_an_empty_session_can_be_frozen_too(self, engine: Engine) -> None:
        session = engine.session()
        session.thaw(engine.session().freeze())
        assert session.tokens == ()
        assert "132" in finished(session, [user(QUESTIONS[0])], replace(BRIEF, max_tokens=100)).text


def test_a_timeline_forgets_positions_it_went_back_behind(engine: Engine) -> None:
    timeline: Timeline = engine.session()._timeline
    for tokens in ([1, 2, 3], [1, 2, 3, 4, 5, 6]):
        for _ in prefill(engine.model, timeline, tokens):
            pass
    assert timeline.reuse([1, 2, 3, 9]) == 3
    assert timeline.checkpoints.positions == (3,)
