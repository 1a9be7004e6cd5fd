"""An engine saves a session and another one goes on with it as if nothing had happened, where it is the same model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from session_files import made_up

from mlx_qnext import Engine, GenerationConfig, Session
from mlx_qnext.cache.frozen import Frozen
from mlx_qnext.errors import SessionError
from mlx_qnext.generate.events import Finished
from mlx_qnext.generate.saved import identity_of, resume_session, save_session
from mlx_qnext.hub import embedded_model
from mlx_qnext.sessions.library import SessionLibrary
from mlx_qnext.tokenizer import Tokenizer

QUESTION = {"role": "user", "content": "What is 4 + 8?"}
NEXT = {"role": "user", "content": "And 3 + 4?"}


def answered(session: Session, messages: list[dict[str, Any]]) -> Finished:
    *_, last = session.generate(messages, GenerationConfig(temperature=0, max_tokens=12))
    assert isinstance(last, Finished)
    return last


@pytest.fixture
def library(tmp_path: Path) -> SessionLibrary:
    return SessionLibrary(tmp_path)


def test_a_resumed_session_goes_on_where_it_was(engine: Engine, library: SessionLibrary) -> None:
    session, identity = engine.session(), identity_of(engine, "demo")
    said = [QUESTION, {"role": "assistant", "content": answered(session, [QUESTION]).text}]
    with library.create("sums") as opened:
        assert save_session(opened, session, identity, said, {}) is None
    with library.open("sums") as opened:
        resumed = resume_session(opened, engine, identity)
        messages = [*opened.messages, NEXT]
    assert resumed.tokens == session.tokens
    one, other = answered(session, messages), answered(resumed, messages)
    assert (one.text, one.thinking) == (other.text, other.thinking)
    assert other.stats.cached_tokens == one.stats.cached_tokens > 0


def test_the_identity_says_what_the_model_is(engine: Engine) -> None:
    identity = identity_of(engine, "demo")
    assert (identity.model, identity.weights, identity.dtype) == ("demo", engine.key, "float32")
    assert identity.kv_bits is None
    assert identity.template == engine.tokenizer.fingerprint


@pytest.mark.parametrize("file", ["tokenizer.json", "chat_template.jinja", "tokenizer_config.json"])
def test_another_vocabulary_or_template_has_another_fingerprint(file: str, tmp_path: Path) -> None:
    for path in embedded_model().glob("*token*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    template = embedded_model() / "chat_template.jinja"
    (tmp_path / template.name).write_bytes(template.read_bytes())
    before = Tokenizer.from_folder(tmp_path).fingerprint
    assert Tokenizer.from_folder(tmp_path).fingerprint == before
    changed = (tmp_path / file).read_text()
    changed = changed.replace('"eos_token"', '"bos_token"') if "config" in file else changed + "\n"
    (tmp_path / file).write_text(changed)
    assert Tokenizer.from_folder(tmp_path).fingerprint != before


def test_a_session_longer_than_the_context_says_how_long(engine: Engine, library: SessionLibrary) -> None:
    identity = identity_of(engine)
    short = replace(engine, plan=replace(engine.plan, context_tokens=2))
    with library.create("sums") as opened:
        opened.save(made_up(), [QUESTION], {}, identity)
        with pytest.raises(SessionError, match="holds 3 tokens, more than the context of 2"):
            resume_session(opened, short, identity)


def test_a_cache_that_the_model_does_not_have_is_refused(engine: Engine, library: SessionLibrary) -> None:
    identity = identity_of(engine)
    for frozen in (made_up(), Frozen({}, {"position": 2})):
        with library.create("sums") as opened:
            opened.save(frozen, [QUESTION], {}, identity)
            with pytest.raises(SessionError, match="sums has a cache that is not this model's: it "):
                resume_session(opened, engine, identity)
            assert list(opened.messages) == [QUESTION]
        library.delete("sums")
