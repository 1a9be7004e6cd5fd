"""Another model takes the place of the one that answers, or the one before answers on."""

from __future__ import annotations

import weakref
from contextlib import closing
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from fakes.engine import finished
from rich.console import Console
from test_chat_settings import PLAIN

from cli import swapping
from cli.actions import UseModel
from cli.commands import read
from cli.conversation import Conversation
from cli.keeping import Keeping
from cli.options import room
from cli.swapping import StoppedError
from cli.talk import Talk
from cli.views.thought import Thinking
from mlx_qnext import Engine
from mlx_qnext.errors import CheckpointError, MemoryLimitError, ModelNotFoundError, QnextError
from mlx_qnext.sessions.library import SessionLibrary


class Loads:
    """Loads what it is told to, and remembers what it was asked for."""

    def __init__(self, engine: Engine, *failures: BaseException | None) -> None:
        self.asked: list[str] = []
        self.loaded: list[weakref.ref[Any]] = []
        self._engine, self._failures = engine, list(failures)

    def __call__(self, model: str, *_: object) -> Any:
        self.asked.append(model)
        failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            raise failure
        # Another object each time: the embedded model's own must not be closed.
        engine = replace(self._engine, close=lambda: None)
        self.loaded.append(weakref.ref(engine))
        return engine


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models that were looked at; every one is sound."""
    seen: list[str] = []
    monkeypatch.setattr(swapping, "check_model", lambda model, _: seen.append(model))
    return seen


def a_talk(tmp_path: Path, loads: Loads, monkeypatch: pytest.MonkeyPatch, *, automatic: bool = False) -> Talk:
    monkeypatch.setattr(swapping, "load_engine", loads)
    library = SessionLibrary(tmp_path)
    keeping = Keeping(library, loads("first"), "first", PLAIN.facts(), automatic=automatic)
    err = Console(file=StringIO(), markup=False)
    talk = Talk(
        Conversation(None, Thinking.hide), PLAIN, room("auto", "auto", 16), keeping, err, as_json=True
    )
    talk.conversation.answered(talk.conversation.question("one?"), finished("1."))
    return talk


def test_another_one_takes_its_place_once_its_memory_is_free(
    engine: Engine, tmp_path: Path, checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(engine)
    talk = a_talk(tmp_path, loads, monkeypatch)
    freed: list[bool] = []
    monkeypatch.setattr(
        swapping, "load_engine", lambda *a: freed.append(loads.loaded[0]() is None) or loads(*a)
    )
    messages = talk.conversation.messages
    with closing(talk.keeping):
        talk.turn("/model second")
        assert (checked, loads.asked, freed) == (["second"], ["first", "second"], [True])
        assert talk.keeping.model == talk.settings.model == talk.keeping.settings["model"] == "second"
        assert talk.conversation.messages == messages
        assert talk.keeping.session.tokens == ()


def test_one_that_is_not_sound_leaves_the_first_untouched(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = a_talk(tmp_path, Loads(engine), monkeypatch)
    session = talk.keeping.session
    with closing(talk.keeping), pytest.raises(ModelNotFoundError):
        talk.turn(f"/model {tmp_path / 'nowhere'}")
    assert talk.keeping.session is session
    assert talk.settings.model is None


@pytest.mark.parametrize(
    ("failure", "told"),
    [(MemoryLimitError("Too large."), MemoryLimitError), (KeyboardInterrupt(), StoppedError)],
)
@pytest.mark.usefixtures("checked")
def test_one_that_cannot_be_loaded_brings_the_first_back(
    failure: BaseException,
    told: type[QnextError],
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads = Loads(engine, None, failure)
    talk = a_talk(tmp_path, loads, monkeypatch)
    with closing(talk.keeping), pytest.raises(told):
        talk.turn("/model second")
    assert loads.asked == ["first", "second", "first"]
    # What was begun is not held by what went wrong.
    assert [model() is None for model in loads.loaded] == [True, False]
    assert (talk.keeping.model, talk.settings.model) == ("first", None)
    assert talk.keeping.session.tokens == ()


@pytest.mark.usefixtures("checked")
def test_what_is_saved_says_which_one_answers_even_if_nothing_is_asked_of_it(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = a_talk(tmp_path, Loads(engine), monkeypatch, automatic=True)
    with closing(talk.keeping):
        talk.turn("/model second")
        talk.keep()
        name = talk.keeping.name
        assert name is not None
        saved = SessionLibrary(tmp_path).read(name)
        assert saved.settings["model"] == "second"
        assert list(saved.messages) == talk.conversation.messages
        assert talk.keeping.save_what_is_new(talk.conversation.messages) is None
        talk.turn("/set temp 0.25")
        talk.keep()
        assert SessionLibrary(tmp_path).read(name).settings["temp"] == 0.25


@pytest.mark.parametrize("moment", ["let_go", "_free_memory", "load_engine"])
@pytest.mark.usefixtures("checked")
def test_an_interrupt_at_any_moment_leaves_what_was_saved_and_the_first_one(
    moment: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = a_talk(tmp_path, Loads(engine), monkeypatch, automatic=True)
    target = talk.keeping if moment == "let_go" else swapping
    original = getattr(target, moment)
    interrupts = [KeyboardInterrupt()]

    def interrupted(*arguments: object) -> object:
        if interrupts:
            raise interrupts.pop()
        return original(*arguments)

    monkeypatch.setattr(target, moment, interrupted)
    with closing(talk.keeping):
        with pytest.raises(StoppedError):
            talk.turn("/model second")
        assert (talk.keeping.model, talk.settings.model) == ("first", None)
        name = talk.keeping.name
        assert name is not None
        assert list(SessionLibrary(tmp_path).read(name).messages) == talk.conversation.messages
        # The disk has more than this session, which was begun anew.
        assert talk.keeping.save_what_is_new(talk.conversation.messages) is None


@pytest.mark.usefixtures("checked")
def test_one_that_answers_already_is_not_loaded_again(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(engine)
    talk = a_talk(tmp_path, loads, monkeypatch)
    with closing(talk.keeping):
        talk.turn("/model first")
    assert loads.asked == ["first"]


@pytest.mark.usefixtures("checked")
def test_where_none_is_left_it_is_said(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = a_talk(tmp_path, Loads(engine, None, MemoryLimitError("a"), CheckpointError("b")), monkeypatch)
    with (
        closing(talk.keeping),
        pytest.raises(QnextError, match=r"No model is left: first .* again") as told,
    ):
        talk.turn("/model second")
    assert type(told.value) is QnextError


def test_alone_it_says_which_one_answers(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = a_talk(tmp_path, Loads(engine), monkeypatch)
    assert read("/model", talk.conversation) == UseModel(None)
    with closing(talk.keeping):
        talk.turn("/model")
    assert isinstance(talk.err.file, StringIO)
    tokens = engine.plan.context_tokens
    said = " ".join(talk.err.file.getvalue().split())
    assert said == f"first answers, with a context of {tokens:,} tokens."
