"""Batches on the engine: every answer is what its request alone would get, and shared beginnings are read once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import CONTINUED_TRAINED

import mlx_qnext
from demo.cases import cases
from mlx_qnext import Engine
from mlx_qnext.cache import shelves as shelves_module
from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.config import ModelConfig
from mlx_qnext.errors import ContextLengthError, TokenizerError, UsageError
from mlx_qnext.experts.plan import MemoryNeeds
from mlx_qnext.generate import batch as batch_module
from mlx_qnext.generate.batch import run_batch
from mlx_qnext.generate.batch_memory import BatchMemory
from mlx_qnext.generate.batch_order import LEAST_SHARED_TOKENS, partings
from mlx_qnext.generate.batch_request import BatchRequest, BatchResult
from mlx_qnext.generate.events import Finished, Notice
from mlx_qnext.generate.request import GenerationConfig
from mlx_qnext.generate.timeline import shared_length
from mlx_qnext.generate.together import BatchSequence, Together
from mlx_qnext.hub import embedded_model
from mlx_qnext.model.qwen3_next import Model

GREEDY = GenerationConfig(temperature=0.0, thinking=False)
# Nearly every token is as likely as any other, so that another throw of the dice shows.
HOT = replace(GREEDY, temperature=100.0, top_k=0, top_p=1.0)


def asked(text: str, config: GenerationConfig = GREEDY, system: str | None = None) -> BatchRequest:
    leading = [{"role": "system", "content": system}] if system else []
    return BatchRequest([*leading, {"role": "user", "content": text}], config)


def run(engine: Engine, requests: Iterable[BatchRequest], concurrency: int) -> dict[int, Finished]:
    """The answers by number; each came once."""
    found: dict[int, Finished] = {}
    for event in run_batch(engine, enumerate(requests), concurrency):
        if isinstance(event, BatchResult):
            assert event.number not in found
            assert isinstance(event.outcome, Finished), event.outcome
            found[event.number] = event.outcome
    return found


def said(result: Finished) -> tuple[Any, ...]:
    stats = result.stats
    return (
        result.reason,
        result.thinking,
        result.thought_end,
        result.text,
        result.tool_calls,
        stats.completion_tokens,
    )


def alone(engine: Engine, request: BatchRequest) -> Finished:
    *_, last = engine.session().generate(request.messages, request.config, request.tools)
    assert isinstance(last, Finished)
    return last


def agree(engine: Engine, requests: Sequence[BatchRequest], concurrency: int) -> None:
    together = run(engine, requests, concurrency)
    assert sorted(together) == list(range(len(requests)))
    for number, request in enumerate(requests):
        assert said(together[number]) == said(alone(engine, request)), f"request {number} of {concurrency}"


def held_out(count: int, limit: int) -> list[BatchRequest]:
    """Test questions of every kind, and answers of lengths that differ, so that sequences come and go."""
    chosen = [*cases(count, False), *cases(count, True)]
    return [
        BatchRequest(
            case.messages, replace(GREEDY, max_tokens=limit // 2 + n % (limit // 2), thinking=case.thinking)
        )
        for n, case in enumerate(chosen)
    ]


def short(count: int, limit: int) -> list[BatchRequest]:
    """Those of the held-out ones that are read fastest."""
    return sorted(held_out(1, limit), key=lambda request: len(str(request.messages)))[:count]


def test_answers_decoded_together_are_those_of_each_alone(engine: Engine) -> None:
    # The second of three that decode ends first, and another one joins.
    requests = sorted(short(4, 6), key=lambda r: engine.tokenizer.prompt(r.messages, None, False).token_ids)
    limits = (4, 2, 5, 3)
    agree(engine, [limited(request, limit) for request, limit in zip(requests, limits, strict=True)], 3)


@pytest.mark.parametrize(("room", "waits"), [(1000, False), (170, True)])
def test_states_of_answers_decoded_together_are_those_of_each_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, room: int, waits: bool
) -> None:
    """Tokens hide much: a question's next word is often the same, whatever an earlier word was taken for."""
    hidden_of = Together._hidden  # pyright: ignore[reportPrivateUsage]
    passes: list[tuple[list[BatchSequence], list[int], mx.array]] = []

    def hidden(self: Together, tokens: mx.array) -> mx.array:
        # The token that is run now is told in the same step.
        lengths = [len(sequence.tokens) + 1 for sequence in self.sequences]
        passes.append((list(self.sequences), lengths, hidden_of(self, tokens)))
        return passes[-1][-1]

    monkeypatch.setattr(Together, "_hidden", hidden)
    monkeypatch.setattr(batch_module.BatchMemory, "of", lambda plan: BatchMemory(room, 1, 1))
    # Rows are filled after a few steps: the longest has another row from the beginning, and the others follow it there.
    monkeypatch.setattr(shelves_module, "SHORTEST_ROW", 4)
    texts = (
        "What is 47 + 85, and what is 12 * 3?",
        "Name a colour, a fruit, and then an animal that you like.",
        "What is the capital of France? And that of Spain?",
    )
    requests = [asked(text, replace(GREEDY, max_tokens=limit)) for text, limit in zip(texts, (3, 6, 9))]
    lengths = [len(engine.tokenizer.prompt(r.messages, None, False).token_ids) for r in requests]
    assert lengths == [32, 30, 25]
    events = list(run_batch(engine, enumerate(requests), 3))
    assert any(isinstance(event, Notice) for event in events) == waits
    sequences = passes[0][0]
    assert len(sequences) == 3
    alone = [engine.model.hidden(mx.array([sequence.tokens]))[0] for sequence in sequences]
    for decoding, lengths, states in passes:
        expected = [alone[sequences.index(s)][length - 1] for s, length in zip(decoding, lengths)]
        actual = engine.model.logits(states)[:, -1]
        CONTINUED_TRAINED.check(np.array(actual), np.array(engine.model.logits(mx.stack(expected))))


def limited(request: BatchRequest, limit: int) -> BatchRequest:
    return replace(request, config=replace(request.config, max_tokens=limit))


@pytest.fixture(scope="module")
def forty(engine: Engine) -> list[tuple[BatchRequest, Finished]]:
    """Held-out questions, and what each is answered alone."""
    return [(request, alone(engine, request)) for request in short(40, 10)]


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [4, 8])
def test_forty_answers_decoded_together_are_those_of_each_alone(
    engine: Engine, forty: list[tuple[BatchRequest, Finished]], concurrency: int
) -> None:
    together = run(engine, [request for request, _ in forty], concurrency)
    assert [said(together[n]) for n in range(40)] == [said(answer) for _, answer in forty]


def test_one_at_a_time_is_as_each_alone(engine: Engine) -> None:
    agree(engine, [asked("What is 47 + 85?", replace(GREEDY, max_tokens=5))], 1)


@pytest.mark.slow
def test_seeded_draws_depend_on_neither_order_nor_concurrency(engine: Engine) -> None:
    drawn = replace(HOT, max_tokens=9, draft=2)
    requests = [asked(f"What is {n} + 85?", replace(drawn, seed=n)) for n in range(2)]
    forwards, backwards = run(engine, requests, 2), run(engine, requests[::-1], 1)
    assert [said(forwards[n]) for n in range(2)] == [said(backwards[1 - n]) for n in range(2)]
    assert said(forwards[0]) == said(alone(engine, without_drafts(requests[0])))


def without_drafts(request: BatchRequest) -> BatchRequest:
    return replace(request, config=replace(request.config, draft=0))


@pytest.mark.parametrize("concurrency", [1, 2])
def test_what_prompts_begin_with_alike_is_read_once(engine: Engine, concurrency: int) -> None:
    head = "2 and 3 make 5. " * 6
    brief = replace(GREEDY, max_tokens=1)
    requests = [
        asked(f"{head}What do {n} and {n} make?", brief, system="You add numbers.") for n in (4, 7, 9)
    ]
    stats = [result.stats for _, result in sorted(run(engine, requests, concurrency).items())]
    prompts = [engine.tokenizer.prompt(r.messages, None, False).token_ids for r in requests]
    ordered = sorted(prompts)
    shared = sum(min(shared_length(a, b), len(b) - 1) for a, b in pairwise(ordered))
    assert sum(s.prompt_tokens for s in stats) == sum(map(len, prompts))
    assert sum(s.cached_tokens for s in stats) == shared
    assert shared > 2 * LEAST_SHARED_TOKENS


def test_a_request_that_cannot_be_asked_fails_alone(engine: Engine) -> None:
    requests = [
        asked("What is 1 + 1?", replace(GREEDY, max_tokens=2)),
        asked("word " * engine.plan.context_tokens),
        BatchRequest([], GREEDY),
        asked("\ud800"),
    ]
    outcomes = {
        event.number: event.outcome
        for event in run_batch(engine, enumerate(requests), 2)
        if isinstance(event, BatchResult)
    }
    kinds = [Finished, ContextLengthError, UsageError, TokenizerError]
    assert [type(outcomes[n]) for n in range(4)] == kinds


def test_where_memory_runs_short_the_last_waits_and_goes_on_later(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Scarce(BatchMemory):
        def holds(self, reading_tokens: int, sequences: Iterable[int]) -> bool:
            return sum(sequences) < 48

    monkeypatch.setattr(batch_module.BatchMemory, "of", lambda plan: Scarce(0, 0, 0))
    config = replace(HOT, seed=4, max_tokens=5, draft=0)
    requests = [asked(text, config) for text in ("What is 47 + 85?", "What is 12 * 3?")]
    events = list(run_batch(engine, enumerate(requests), 3))
    answers = {e.number: e.outcome for e in events if isinstance(e, BatchResult)}
    notices = [e.message for e in events if isinstance(e, Notice)]
    assert len(notices) == 1
    assert notices[0].startswith("Memory has room for 1 answer of this length")
    for number, request in enumerate(requests):
        outcome = answers[number]
        assert isinstance(outcome, Finished)
        assert said(outcome) == said(alone(engine, request))


def test_one_that_memory_never_holds_beside_another_is_answered_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module.BatchMemory, "of", lambda plan: BatchMemory(0, 1, 1))
    requests = [asked("What is 6 * 7?", replace(GREEDY, max_tokens=2))] * 2
    events = list(run_batch(engine, enumerate(requests), 2))
    assert sorted(e.number for e in events if isinstance(e, BatchResult)) == [0, 1]
    assert [e.message[:37] for e in events if isinstance(e, Notice)] == [
        "Memory has room for 1 answer of this "
    ]


def test_planned_memory_is_shared_by_states_and_by_tokens_in_whole_steps(engine: Engine) -> None:
    plan = engine.plan
    memory = BatchMemory.of(plan)
    assert memory.bytes >= plan.cache_bytes + plan.state_bytes
    assert memory.state_bytes * (plan.checkpoints + 1) == plan.state_bytes
    exactly = BatchMemory(bytes=4 * 10 + 7 + 2 * (10 + 256), state_bytes=10, token_bytes=1)
    assert exactly.holds(7, [255, 1])
    assert not exactly.holds(8, [255, 1])
    assert not exactly.holds(7, [256, 1])


def test_stop_strings_and_limits_are_each_request_s_own(engine: Engine) -> None:
    config = replace(GREEDY, max_tokens=5)
    question = "What is the capital of France?"
    stopped, cut, whole = (
        asked(question, c) for c in (replace(config, stop=("is",)), replace(config, max_tokens=1), config)
    )
    results = run(engine, [stopped, cut, whole], 3)
    assert [results[n].reason for n in range(3)] == ["stop", "length", "length"]
    assert results[2].text.startswith(results[0].text + "is")
    assert [results[n].stats.completion_tokens for n in (1, 2)] == [1, 5]


def test_a_thought_is_closed_after_its_own_budget(engine: Engine) -> None:
    config = replace(GREEDY, thinking=None, max_tokens=12)
    budgets = (0, 3, None)
    requests = [asked("What is 47 + 85?", replace(config, thinking_budget=budget)) for budget in budgets]
    agree(engine, requests, 3)


def asked_at_length(turns: int, config: GenerationConfig) -> BatchRequest:
    earlier = [{"role": role, "content": "4 + 5 = 9"} for _ in range(turns) for role in ("user", "assistant")]
    return BatchRequest([*earlier, {"role": "user", "content": "6 * 7?"}], config)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_each_result_has_the_notices_of_its_request(engine: Engine, concurrency: int) -> None:
    small = replace(engine, plan=replace(engine.plan, context_tokens=48))
    config = replace(HOT, seed=1, draft=0, max_tokens=2)
    requests = [
        asked_at_length(4, replace(config, when_full="drop")),
        asked_at_length(0, replace(config, max_tokens=None)),
        asked_at_length(0, replace(config, max_tokens=500)),
        asked("6 * 7?", replace(GREEDY, max_tokens=8, thinking=None, thinking_budget=1)),
        asked_at_length(0, config),
    ]
    events = list(run_batch(small, enumerate(requests), concurrency))
    found = {event.number: event.notices for event in events if isinstance(event, BatchResult)}
    told: list[tuple[str, ...]] = []
    for request in requests:
        alone = small.session().generate(request.messages, request.config)
        told.append(tuple(event.message for event in alone if isinstance(event, Notice)))
    # That a thought was closed is in the answer itself.
    assert told.pop(3) == ("The thought was closed after 1 token.",)
    assert found.pop(3) == ()
    assert [found[n] for n in sorted(found)] == told
    assert [len(notices) for notices in told] == [1, 1, 2, 0]
    assert not [event for event in events if isinstance(event, Notice)]


def test_that_nothing_can_be_drafted_is_said_once(engine: Engine) -> None:
    headless = replace(engine, model=Model(engine.config, engine.model.model, engine.model.lm_head))
    requests = [asked("6 * 7?", replace(GREEDY, max_tokens=1))] * 2
    said = [e.message for e in run_batch(headless, enumerate(requests), 1) if isinstance(e, Notice)]
    assert len(said) == 1
    assert "no MTP head" in said[0]


@pytest.mark.slow
def test_tools_are_offered_to_those_that_ask_for_them(engine: Engine) -> None:
    case = next(case for case in cases(1, False) if case.chat.tools)
    request = BatchRequest(case.messages, GREEDY, case.chat.tools)
    plain = asked("What is 6 * 7?", replace(GREEDY, max_tokens=2))
    assert run(engine, [plain, request], 2)[1].tool_calls


def test_experts_that_are_read_when_they_are_needed_give_the_same(engine: Engine) -> None:
    checkpoint = Checkpoint.open(Path(embedded_model()))
    needs = MemoryNeeds.of(checkpoint, ModelConfig.from_dict(checkpoint.config), 1024)
    small = mlx_qnext.load("demo", memory_bytes=needs.smallest_bytes, context_tokens=1024)
    requests = short(3, 4)
    events = list(run_batch(small, enumerate(requests), 3))
    assert not small.model.complete
    told = [event.message for event in events if isinstance(event, Notice)]
    assert [message for message in told if "of the experts find room" in message] == told[:1]
    streamed = {e.number: e.outcome for e in events if isinstance(e, BatchResult)}
    resident = run(engine, requests, 3)
    for number, outcome in streamed.items():
        assert isinstance(outcome, Finished)
        assert said(outcome) == said(resident[number])
    small.close()


@pytest.mark.slow
def test_quantised_keys_and_values_decode_together_too() -> None:
    agree(mlx_qnext.load("demo", kv_bits=8), held_out(1, 10)[::8], 4)


def test_there_is_no_concurrency_below_one(engine: Engine) -> None:
    with pytest.raises(UsageError, match="concurrency is 0"):
        list(run_batch(engine, [], 0))


@st.composite
def prompts(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """Sorted prompts that share starts of many lengths."""
    heads = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    choose = st.lists(st.tuples(st.sampled_from(heads), st.integers(0, 2)), min_size=1, max_size=3)
    made = draw(st.lists(choose, min_size=1, max_size=12))
    return sorted(tuple(token for length, token in parts for _ in [token] * length) for parts in made)


@settings(deadline=None, max_examples=60)
@given(prompts())
def test_marks_are_where_later_prompts_part_from_this_one(ordered: list[tuple[int, ...]]) -> None:
    for at, (farthest, nearest) in enumerate(partings(ordered)):
        lengths = {
            min(shared_length(ordered[at], later), len(ordered[at]) - 1) for later in ordered[at + 1 :]
        }
        assert farthest <= nearest < len(ordered[at])
        if (
            at + 1 < len(ordered)
            and (most := min(max(lengths), len(ordered[at + 1]) - 1)) >= LEAST_SHARED_TOKENS
        ):
            assert nearest == most
        assert nearest == 0 or farthest >= LEAST_SHARED_TOKENS
        assert nearest <= max(lengths, default=0)
