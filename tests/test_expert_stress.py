"""Hundreds of steps while readers come in any order and the background fills, and reads that fail: no bit is ever wrong."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pooled import DEMO, Decoding, Pooled, check_slots, pooled, resident
from tiny_pools import EXPERTS, KINDS, TOP_K

from mlx_qnext import Engine, GenerationConfig, Session
from mlx_qnext.cache.hybrid import HybridCache
from mlx_qnext.errors import CheckpointError
from mlx_qnext.experts.files import WeightFiles
from mlx_qnext.experts.pool import Pool
from mlx_qnext.generate.events import ExpertActivity, PrefillProgress, TokensEmitted
from mlx_qnext.generate.prefill import prefill
from mlx_qnext.generate.timeline import Timeline
from mlx_qnext.model.qwen3_next import Model

GREEDY = GenerationConfig(temperature=0.0, seed=0, max_tokens=6)
SUM = [{"role": "user", "content": "What is 47 + 85?"}]
LONG = [{"role": "user", "content": "one two three four " * 22}]


class Uneven(WeightFiles):
    """Weight files whose readers give way to other threads, some of them often, before and after they read."""

    def __init__(self, paths: set[Path]) -> None:
        super().__init__(paths)
        self._random = random.Random(len(paths))

    def read(self, path: Path, offset: int, buffers: Sequence[memoryview]) -> int:
        self._give_way()
        count = super().read(path, offset, buffers)
        self._give_way()
        return count

    def _give_way(self) -> None:
        for _ in range(self._random.choice([0, 0, 0, 1, 10, 200])):
            os.sched_yield()


class Failing(WeightFiles):
    """Weight files that can be made to fail after so many more reads."""

    left: int | None = None

    def read(self, path: Path, offset: int, buffers: Sequence[memoryview]) -> int:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise CheckpointError(f"{path} is not there any more: connect its disk again.")
        return super().read(path, offset, buffers)


class Life:
    """One pooled model that does what a session may do, at random, beside a resident one that does the same."""

    def __init__(self, streamed: Pooled, model: Model, seed: int) -> None:
        self.draw, self.store = random.Random(seed), streamed.store
        self.timelines = [Timeline(HybridCache(m.make_cache())) for m in (streamed.model, model)]
        self.models = streamed.model, model

    def tokens(self, most: int) -> list[int]:
        return [self.draw.randrange(5, 90) for _ in range(self.draw.randint(2, most))]

    def step(self) -> None:
        token = self.draw.randrange(5, 90)
        self.check(lambda run: run.step(token))
        self.ran([token])

    def verify(self) -> None:
        tokens = self.tokens(5)
        keep = self.draw.randint(1, len(tokens))
        self.check(lambda run: run.verify(tokens, keep))
        self.ran(tokens[:keep])

    def prompt(self) -> None:
        """Read more of a prompt, in one span; leave some layers through it, or read all."""
        more, leave_after = self.tokens(60), self.draw.choice([1, 2, 3, None, None])
        streamed, whole = self.timelines
        prompt = [*streamed.tokens, *more]
        for model, timeline in zip(self.models, self.timelines, strict=True):
            if timeline is whole and streamed.tokens != prompt:
                return
            with closing(prefill(model, timeline, prompt)) as steps:
                for n, step in enumerate(steps, 1):
                    if step.hidden is None and n == leave_after:
                        break
        assert streamed.tokens == whole.tokens

    def again(self) -> None:
        """Begin anew."""
        self.timelines = [Timeline(HybridCache(m.make_cache())) for m in self.models]

    def shrink(self) -> None:
        self.store.shrink(0.15, TOP_K)

    def ran(self, tokens: list[int]) -> None:
        for timeline in self.timelines:
            timeline.append(tokens)
        if self.timelines[0].cache.position > 300:
            self.again()

    def check(self, what: Callable[[Decoding], np.ndarray]) -> None:
        ours, theirs = (
            what(Decoding(model, timeline.cache.layers))
            for model, timeline in zip(self.models, self.timelines, strict=True)
        )
        assert (ours == theirs).all(), f"{abs(ours - theirs).max()} apart"

    def live(self, steps: int, *, shrinking: bool) -> None:
        """So many steps, of which prompts are few; every slot is looked into again and again."""
        kinds = [self.step, self.verify] * 8 + [self.prompt] * 2 + [self.again]
        for n in range(steps):
            self.draw.choice(kinds)()
            if n % 40 == 39:
                check_slots(*self.models)
            if shrinking and n % 30 == 29:
                self.shrink()
        check_slots(*self.models)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return KINDS["4 bits by 64"](tmp_path_factory.mktemp("stress") / "model")


def live(folder: Path, slots: int, seed: int, steps: int, *, shrinking: bool, filling: bool) -> None:
    with pooled(folder, slots, Uneven) as streamed:
        if filling:
            streamed.store.fill({path: [5, 1, 6] for path in streamed.store.pools})
        Life(streamed, resident(folder), seed).live(steps, shrinking=shrinking)


@pytest.mark.parametrize(
    ("slots", "filling", "shrinking"),
    [(TOP_K, False, False), (4, True, True), (EXPERTS - 1, False, True), (EXPERTS, True, True)],
)
def test_over_a_hundred_steps_are_right_to_the_bit(
    folder: Path, slots: int, *, filling: bool, shrinking: bool
) -> None:
    live(folder, slots, slots, 40, shrinking=shrinking, filling=filling)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slots", "filling", "seed"), [(TOP_K, False, 0), (3, True, 1), (5, False, 1), (EXPERTS, True, 0)]
)
def test_a_thousand_steps_are_right_to_the_bit(folder: Path, slots: int, seed: int, *, filling: bool) -> None:
    live(folder, slots, seed, 250, shrinking=seed % 2 == 1, filling=filling)


def test_the_background_and_the_steps_meet_over_and_over(folder: Path) -> None:
    model = resident(folder)
    for seed in range(5):
        with pooled(folder, EXPERTS, Uneven) as streamed:
            streamed.store.fill({})
            Life(streamed, model, seed).live(3, shrinking=False)
            streamed.store.wait_until_filled()
            assert streamed.store.complete
            check_slots(streamed.model, model)


@contextmanager
def on_failing_files(engine: Engine, slots: int) -> Iterator[tuple[Engine, Failing]]:
    """The same engine with a model whose experts come from files that may fail."""
    with pooled(DEMO, slots, Failing) as streamed:
        files = streamed.store._reader._files
        assert isinstance(files, Failing)
        yield replace(engine, model=streamed.model, store=streamed.store), files


def said(session: Session, messages: list[dict[str, str]], config: GenerationConfig) -> list[int]:
    events = session.generate(messages, config)
    return [token for event in events if isinstance(event, TokensEmitted) for token in event.token_ids]


@pytest.fixture(scope="module")
def whole() -> Model:
    return resident(DEMO)


@pytest.fixture(scope="module")
def answers(engine: Engine, whole: Model) -> dict[str, list[int]]:
    """What fresh sessions say with all experts in memory, by the question."""
    complete = replace(engine, model=whole)
    return {m[0]["content"]: said(complete.session(), m, GREEDY) for m in (SUM, LONG)}


@pytest.fixture
def check_usable(whole: Model, answers: dict[str, list[int]]) -> Callable[..., None]:
    """Checks that every slot is sound, nothing is promised that never comes, and the session answers as a fresh one does."""

    def check(engine: Engine, session: Session, messages: list[dict[str, str]] = SUM) -> None:
        assert not any(pool.table._coming for pool in engine.store.pools.values())
        check_slots(engine.model, whole)
        assert len(session._timeline.tokens) == session._timeline.cache.position
        assert said(session, messages, GREEDY) == answers[messages[0]["content"]]
        check_slots(engine.model, whole)

    return check


class TestFailures:
    """Files that cannot be read for a while: one sentence, and everything goes on when they can."""

    @pytest.mark.parametrize(("slots", "draft", "reads"), [(4, 0, 0), (4, 2, 7), (12, 0, 20), (32, 2, 3)])
    def test_while_an_answer_is_said(
        self, slots: int, draft: int, reads: int, engine: Engine, check_usable: Callable[..., None]
    ) -> None:
        with on_failing_files(engine, slots) as (failing, files):
            session = failing.session()
            events = session.generate(SUM, replace(GREEDY, draft=draft, max_tokens=20))
            next(event for event in events if isinstance(event, TokensEmitted))
            files.left = reads
            with pytest.raises(CheckpointError, match="connect its disk again"):
                list(events)
            files.left = None
            check_usable(failing, session)

    @pytest.mark.parametrize(("slots", "reads"), [(4, 500), (12, 0), (32, 701)])
    def test_while_a_prompt_is_read(
        self, slots: int, reads: int, engine: Engine, check_usable: Callable[..., None]
    ) -> None:
        with on_failing_files(engine, slots) as (failing, files):
            session, files.left = failing.session(), reads
            with pytest.raises(CheckpointError, match="connect its disk again"):
                said(session, LONG, GREEDY)
            files.left = None
            check_usable(failing, session, LONG)

    @pytest.mark.parametrize("reads", [0, 30])
    def test_while_the_background_reads(
        self, reads: int, engine: Engine, check_usable: Callable[..., None]
    ) -> None:
        with on_failing_files(engine, 32) as (failing, files):
            files.left = reads
            failing.store.fill({})
            failing.store.wait_until_filled()
            files.left = None
            assert not failing.store.complete
            check_usable(failing, failing.session())

    def test_again_and_again(self, engine: Engine, check_usable: Callable[..., None]) -> None:
        draw = random.Random(0)
        with on_failing_files(engine, 8) as (failing, files):
            session = failing.session()
            for _ in range(6):
                files.left = draw.randrange(400)
                with suppress(CheckpointError):
                    said(session, draw.choice([SUM, LONG]), replace(GREEDY, draft=2))
            files.left = None
            check_usable(failing, session)


class TestInterruptions:
    """A request that is left, cancelled or interrupted while readers run."""

    @pytest.mark.parametrize(("slots", "after"), [(4, 4), (32, 1)])
    def test_leaving_or_cancelling_a_prompt_between_two_layers(
        self, slots: int, after: int, engine: Engine, check_usable: Callable[..., None]
    ) -> None:
        with on_failing_files(engine, slots) as (streamed, _):
            for cancelled in (False, True):
                session = streamed.session()
                events = session.generate(LONG, GREEDY)
                with closing(events):  # pyright: ignore[reportArgumentType]
                    progress = (e for e in events if isinstance(e, PrefillProgress))
                    for n, event in enumerate(progress):
                        if n == after:
                            assert event.done_tokens < event.total_tokens
                            break
                    if cancelled:
                        session.cancel()
                        list(events)
                assert session._timeline.tokens == []
            check_usable(streamed, session, LONG)

    @pytest.mark.parametrize(
        ("slots", "method"), [(4, "_finish_to"), (5, "_start"), (4, "_settle"), (5, "_give_up")]
    )
    def test_ctrl_c_while_experts_are_brought(
        self,
        slots: int,
        method: str,
        engine: Engine,
        check_usable: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with on_failing_files(engine, slots) as (streamed, _):
            session = streamed.session()
            said(session, SUM, replace(GREEDY, max_tokens=2))
            for after in (0, 1, 5, 26):
                with monkeypatch.context() as patched:
                    patched.setattr(Pool, method, interrupted(getattr(Pool, method), after))
                    with pytest.raises(KeyboardInterrupt):
                        said(session, SUM, replace(GREEDY, draft=2))
            check_usable(streamed, session)


def interrupted(method: Callable[..., object], after: int) -> Callable[..., object]:
    """The method, interrupted at its end when it has been called so often."""
    left = iter(range(after))

    def call(*arguments: object) -> object:
        result = method(*arguments)
        if next(left, None) is None:
            raise KeyboardInterrupt
        return result

    return call


def test_events_tell_of_what_was_read(engine: Engine) -> None:
    with on_failing_files(engine, 5) as (streamed, _):
        events = list(streamed.session().generate(SUM, GREEDY))
    told = [event.stats for event in events if isinstance(event, ExpertActivity)]
    assert [stats.read_bytes for stats in told] == sorted({stats.read_bytes for stats in told})
    assert told[-1].read_bytes == streamed.store.counts.read_bytes
