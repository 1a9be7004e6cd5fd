"""Sessions on disk and the engine that goes on with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx

from mlx_qnext.generate.engine import Engine
from mlx_qnext.generate.session import Session
from mlx_qnext.sessions.identity import Identity
from mlx_qnext.sessions.opened import OpenSession


def identity_of(engine: Engine, model: str | None = None) -> Identity:
    """What a cache of this engine belongs to; `model` is how people name it, the folder's name by default."""
    # Nothing is computed: MLX knows the dtype of what it would compute.
    dtype = engine.model.model.embed_tokens(mx.array([[0]])).dtype
    return Identity(
        model or engine.path.name,
        engine.key,
        engine.tokenizer.fingerprint,
        engine.plan.kv_bits,
        str(dtype).removeprefix("mlx.core."),
    )


def save_session(
    opened: OpenSession,
    session: Session,
    identity: Identity,
    messages: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> str | None:
    """The conversation is on the disk, as `OpenSession.save` says it; no request of the session may run meanwhile.

    Raises:
        OutputError: it cannot be saved.
    """
    return opened.save(session.freeze(), messages, settings, identity)


def resume_session(opened: OpenSession, engine: Engine, identity: Identity) -> Session:
    """A session that remembers what was saved.

    Raises:
        SessionError: it cannot; why, in one sentence. The messages of `opened` are there all the same.
    """
    limit = engine.plan.context_tokens
    if opened.cached_tokens > limit:
        raise opened.unusable(f"holds {opened.cached_tokens} tokens, more than the context of {limit}")
    session, frozen = engine.session(), opened.frozen(identity)
    try:
        session.thaw(frozen)
    except ValueError as why:
        raise opened.unusable(f"has a cache that is not this model's: {why}") from None
    return session
