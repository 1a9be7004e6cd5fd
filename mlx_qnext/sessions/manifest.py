"""`session.json`: what was said, and which file has the cache. Its rename is what commits a save."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from mlx_qnext.disk import NEW_SUFFIX, replacing
from mlx_qnext.errors import CheckpointError
from mlx_qnext.json_fields import Fields, parse_json_object
from mlx_qnext.sessions.identity import Identity

FILE = "session.json"
FORMAT = 1

_CACHE_FILE = re.compile(r"cache-[0-9a-f]+\.safetensors")
_MOST = 1 << 62


@dataclass(frozen=True)
class CacheEntry:
    """The file that has a session's cache.

    Attributes:
        file: its name. nbytes: its size.
        header: SHA-256 of its header. digests: tensor → CRC-32 of its bytes.
        tokens: how many the cache holds.
        identity: what it belongs to.
    """

    file: str
    nbytes: int
    header: str
    digests: Mapping[str, int]
    tokens: int
    identity: Identity


@dataclass(frozen=True)
class Manifest:
    """A session as it was saved last.

    Attributes:
        qnext, mlx: the versions that saved it. model: as people name it.
        saved_at: with the time zone.
        messages, settings: JSON, as they were given.
        cache: `None` where it was saved without.
    """

    qnext: str
    mlx: str
    model: str
    saved_at: datetime
    messages: tuple[dict[str, Any], ...]
    settings: dict[str, Any]
    cache: CacheEntry | None


class Unreadable(Exception):  # noqa: N818 — its text is a clause for a sentence that names the session.
    """What is wrong with a session's files."""


def is_left_over(name: str) -> bool:
    """Whether a file of this name is of no use unless a manifest names it."""
    return bool(_CACHE_FILE.fullmatch(name)) or (name.startswith(f"{FILE}.") and name.endswith(NEW_SUFFIX))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """This is the session's manifest, after any loss of power too.

    Raises:
        OSError: it is the one that was there before.
    """
    content = asdict(manifest) | {"saved_at": manifest.saved_at.isoformat()}
    whole = {"format": FORMAT, "sha256": _digest(content), "session": content}
    with replacing(folder / FILE, private=True) as fresh:
        fresh.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a session.

    Raises:
        FileNotFoundError: there is none. Unreadable: it cannot be read, is of another format, or was damaged.
    """
    try:
        content = (folder / FILE).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from None
    damaged = Unreadable("was damaged on disk")
    try:
        whole = Fields(parse_json_object(content, FILE), FILE)
        found = whole.integer("format", low=0, high=_MOST)
        if found != FORMAT:
            raise Unreadable(f"was saved in format {found}, and this version of qnext reads format {FORMAT}")
        session = whole.object("session")
        if whole.text("sha256") != _digest(session.values):
            raise damaged
        return _manifest(session)
    except (CheckpointError, RecursionError, ValueError, TypeError):
        raise damaged from None


def _digest(content: Mapping[str, object]) -> str:
    return sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _manifest(fields: Fields) -> Manifest:
    messages = fields.values.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise fields.error("messages", messages, "a list of objects")
    return Manifest(
        fields.text("qnext"),
        fields.text("mlx"),
        fields.text("model"),
        datetime.fromisoformat(fields.text("saved_at")),
        tuple(messages),
        fields.object("settings").values,
        _cache(fields.object("cache")) if fields.has("cache") else None,
    )


def _cache(fields: Fields) -> CacheEntry:
    digests, file, identity = fields.object("digests"), fields.text("file"), fields.object("identity")
    # The name is joined to a folder, from which it must not lead.
    if not _CACHE_FILE.fullmatch(file):
        raise fields.error("file", file, "the name of a cache")
    return CacheEntry(
        file,
        fields.integer("nbytes", low=0, high=_MOST),
        fields.text("header"),
        {name: digests.integer(name, low=0, high=(1 << 32) - 1) for name in digests.values},
        fields.integer("tokens", low=0, high=_MOST),
        Identity(
            identity.text("model"),
            identity.text("weights"),
            identity.text("template"),
            identity.integer("kv_bits", low=1, high=16) if identity.has("kv_bits") else None,
            identity.text("dtype"),
        ),
    )
