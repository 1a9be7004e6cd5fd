"""A session that this process has to itself: saved as often as wanted, and read back where it fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from secrets import token_hex
from shlex import quote
from types import TracebackType
from typing import Any, Self

from mlx_qnext.cache.frozen import Frozen
from mlx_qnext.disk import flush_folder, writing
from mlx_qnext.errors import OutputError, SessionError
from mlx_qnext.sessions.cache_file import read_cache, write_cache
from mlx_qnext.sessions.identity import Identity
from mlx_qnext.sessions.lock import Hold
from mlx_qnext.sessions.manifest import (
    CacheEntry,
    Manifest,
    Unreadable,
    is_left_over,
    read_manifest,
    write_manifest,
)

_AGAIN = "save again"


class OpenSession:
    """No other process has it before `close`."""

    def __init__(self, held: Hold, manifest: Manifest | None) -> None:
        self._held, self._manifest = held, manifest
        sweep(held.folder)

    def __enter__(self) -> Self:
        """The session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """As it is spelled on the disk."""
        return self._held.folder.name

    @property
    def messages(self) -> tuple[dict[str, Any], ...]:
        """As they were saved last; none in a new one."""
        return self._manifest.messages if self._manifest else ()

    @property
    def settings(self) -> dict[str, Any]:
        """As they were saved last; none in a new one."""
        return dict(self._manifest.settings) if self._manifest else {}

    @property
    def cached_tokens(self) -> int:
        """How many tokens the saved cache holds."""
        return self._manifest.cache.tokens if self._manifest and self._manifest.cache else 0

    def save(
        self,
        frozen: Frozen | None,
        messages: Sequence[Mapping[str, Any]],
        settings: Mapping[str, Any],
        identity: Identity,
    ) -> str | None:
        """Messages, settings and cache are on the disk; or, whatever stops this, those that were there before.

        Where there is no room for the cache, the messages are saved all the same, and the cache that was there before stays:
        what comes after it will be read again. Why, is the sentence that is returned; `None` where all is saved.

        Args:
            frozen: loses its arrays as they are written. `None` saves the messages without a cache.
            messages, settings: JSON.

        Raises:
            OutputError: the messages cannot be saved either.
        """
        folder, refusal = self._held.folder, None
        try:
            try:
                entry = None if frozen is None else self._write_cache(frozen, identity)
            except OutputError as error:
                refusal, entry = str(error), self._manifest.cache if self._manifest else None
            manifest = _manifest_of(messages, settings, identity, entry)
            with writing(folder, _AGAIN):
                write_manifest(folder, manifest)
            self._manifest = manifest
        finally:
            sweep(folder)
        return None if refusal is None else f"{refusal} The messages of {self.name} are saved all the same."

    def _write_cache(self, frozen: Frozen, identity: Identity) -> CacheEntry:
        path = self._held.folder / f"cache-{token_hex(8)}.safetensors"
        tokens = int(frozen.facts.get("position", 0))
        with writing(path, _AGAIN):
            nbytes, header, digests = write_cache(path, frozen)
        return CacheEntry(path.name, nbytes, header, digests, tokens, identity)

    def frozen(self, identity: Identity) -> Frozen:
        """The cache that was saved, every byte of it.

        Raises:
            SessionError: there is none, it is another model's or in another form, or it was damaged; it says what differs. The
                messages are there all the same.
        """
        entry = self._manifest.cache if self._manifest else None
        if entry is None:
            raise self.unusable("was saved without what the model had read")
        difference = entry.identity.difference(identity)
        if difference is not None:
            raise self.unusable(difference)
        try:
            return read_cache(self._held.folder / entry.file, entry)
        except Unreadable as why:
            raise self.unusable(str(why)) from None

    def unusable(self, why: str) -> SessionError:
        """The cache cannot be used; `why` is a clause."""
        return SessionError(
            f"The session {self.name} {why}; its messages can still be read with qnext sessions show {quote(self.name)}."
        )

    def close(self) -> None:
        """Another process may have it. Nothing is left of one that was never saved."""
        self._held.release(remove_empty=self._manifest is None)


def sweep(folder: Path) -> None:
    """Nothing is left of saves that were broken off, or of those that another one followed.

    What cannot be removed, or where the manifest cannot be read, stays.
    """
    with suppress(OSError, Unreadable):
        kept = _cache_in_use(folder)
        # The rename of the manifest that names this one comes before others go, whatever happens.
        flush_folder(folder)
        for path in folder.iterdir():
            if is_left_over(path.name) and path.name != kept:
                path.unlink(missing_ok=True)


def _cache_in_use(folder: Path) -> str | None:
    try:
        cache = read_manifest(folder).cache
    except FileNotFoundError:
        return None
    return cache.file if cache else None


def _manifest_of(
    messages: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    identity: Identity,
    entry: CacheEntry | None,
) -> Manifest:
    said = tuple(dict(message) for message in messages)
    now = datetime.now().astimezone()
    return Manifest(version("qnext"), version("mlx"), identity.model, now, said, dict(settings), entry)
