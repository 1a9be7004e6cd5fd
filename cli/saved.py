"""A saved session as facts, for people and for `--json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_qnext.sessions.library import SessionInfo


def facts_of(info: SessionInfo) -> dict[str, Any]:
    """What is known of it; null where `problem` says why it is not. `bytes` is what it takes on the disk."""
    known = info.trouble is None
    return {
        "name": info.name,
        "saved_at": info.saved_at.isoformat(timespec="seconds"),
        "model": info.model if known else None,
        "turns": info.turns if known else None,
        "cached_tokens": info.cached_tokens if known else None,
        "title": info.title if known else None,
        "bytes": info.nbytes,
        "problem": info.trouble,
    }
