"""All sessions of a user, each a folder of its own.

SESSIONS/NAME/
    session.json               messages, settings, and which cache belongs to them; replaced as a whole
    cache-ID.safetensors       what the model had read
    pid                        who has it open
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mlx_qnext.disk import allocated_bytes, flush_folder, writing
from mlx_qnext.errors import SessionError
from mlx_qnext.folders import sessions_folder
from mlx_qnext.sessions.lock import OWNER_FILE, Hold, InUseError, hold, missing
from mlx_qnext.sessions.manifest import FILE, Manifest, Unreadable, is_left_over, read_manifest
from mlx_qnext.sessions.names import automatic_names, checked_name, folder_of
from mlx_qnext.sessions.opened import OpenSession

_PRIVATE = 0o700
# The manifest goes after the caches, so that what was broken off is still listed.
_DELETED_LAST = (FILE, OWNER_FILE, ".DS_Store")


@dataclass(frozen=True)
class SessionInfo:
    """A session in a list.

    Attributes:
        saved_at: when it was saved last, with the time zone, or else when its folder changed last.
        model: as people name it. title: how its first question begins. turns: how many the user asked.
        cached_tokens: how many need not be read again. nbytes: what it takes on the disk.
        trouble: why it cannot be opened, a clause; what is not known then is empty or zero.
    """

    name: str
    saved_at: datetime
    nbytes: int
    model: str = ""
    title: str = ""
    turns: int = 0
    cached_tokens: int = 0
    trouble: str | None = None


class SessionLibrary:
    """The sessions in one folder, `sessions_folder()` if none is named. It is made when the first session is."""

    def __init__(self, folder: Path | None = None) -> None:
        self._chosen = folder

    @property
    def folder(self) -> Path:
        """Where they lie.

        Raises:
            SessionError: they would lie in the user's home, and there is none.
        """
        try:
            return self._chosen or sessions_folder()
        except RuntimeError:
            raise SessionError(
                "Sessions have no place because you have no home folder: name one with QNEXT_SESSIONS."
            ) from None

    def list(self) -> list[SessionInfo]:
        """Those there are, the last saved first; caches are not read, and one that is damaged says so.

        Raises:
            SessionError: the folder cannot be read.
        """
        found = [info for folder in self._folders() if (info := _info(folder)) is not None]
        return sorted(found, key=lambda info: (info.saved_at, info.name), reverse=True)

    def latest(self) -> str | None:
        """The name of the one that was saved last and can be opened."""
        return next((info.name for info in self.list() if info.trouble is None), None)

    def read(self, name: str) -> Manifest:
        """What was saved last, whether or not another process has the session.

        Raises:
            UsageError: no session can have that name. SessionError: there is none, or it cannot be read.
        """
        return _read(self._folder_of(name))

    def open(self, name: str) -> OpenSession:
        """A session that was saved; no other process has it until it is closed.

        Raises:
            UsageError: no session can have that name. SessionError: there is none, it is in use, or it cannot be read.
        """
        folder = self._folder_of(name)
        if not (folder / FILE).exists():
            raise missing(name)
        held = hold(folder)
        try:
            return OpenSession(held, _read(held.folder))
        except BaseException:
            held.release()
            raise

    def create(self, name: str | None = None) -> OpenSession:
        """A new session, by default named after the time. It is there for others once it is saved.

        Raises:
            UsageError: no session can have that name. SessionError: there is one. OutputError: the folder cannot be made.
        """
        if name is not None:
            held = self._begun(checked_name(name))
            if held is None:
                raise SessionError(
                    f"{self._folder_of(name)} is there already: choose another name, or delete that session with "
                    "qnext sessions delete."
                )
            return OpenSession(held, None)
        begun = map(self._begun_unless_in_use, automatic_names(datetime.now()))
        return OpenSession(next(held for held in begun if held is not None), None)

    def delete(self, name: str) -> None:
        """It is gone. What was broken off is still listed, and can be deleted again.

        Raises:
            UsageError: no session can have that name.
            SessionError: there is none, or it is in use. OutputError: it cannot be removed.
        """
        folder = self._folder_of(name)
        if not _is_sessions(folder):
            raise missing(name)
        held = hold(folder)
        try:
            with writing(folder):
                for path in [path for path in folder.iterdir() if is_left_over(path.name)]:
                    path.unlink()
                for file in _DELETED_LAST:
                    (folder / file).unlink(missing_ok=True)
                folder.rmdir()
                flush_folder(self.folder)
        finally:
            held.release()

    def _begun(self, name: str) -> Hold | None:
        """A folder that holds no session yet; `None` where it does."""
        folder = self._folder_of(name)
        with writing(folder):
            _make_private(self.folder)
            _make_private(folder)
        if (folder / FILE).exists() or not _is_sessions(folder):
            return None
        held = hold(folder)
        if (folder / FILE).exists():
            held.release()
            return None
        return held

    def _begun_unless_in_use(self, name: str) -> Hold | None:
        try:
            return self._begun(name)
        except InUseError:
            return None

    def _folder_of(self, name: str) -> Path:
        try:
            return folder_of(self.folder, name)
        except OSError as error:
            raise self._closed(error) from None

    def _folders(self) -> Iterator[Path]:
        try:
            yield from [path for path in self.folder.iterdir() if path.is_dir()]
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._closed(error) from None

    def _closed(self, error: OSError) -> SessionError:
        return SessionError(
            f"The sessions in {self.folder} cannot be read ({error.strerror}): check the folder, or name another with "
            "QNEXT_SESSIONS."
        )


def _make_private(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        folder.chmod(_PRIVATE)


def _is_sessions(folder: Path) -> bool:
    """Whether it holds nothing but what is a session's: the user may have named a folder of other things."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return False
    return all(name in _DELETED_LAST or is_left_over(name) for name in names)


def _read(folder: Path) -> Manifest:
    try:
        return read_manifest(folder)
    except FileNotFoundError:
        raise missing(folder.name) from None
    except Unreadable as why:
        raise SessionError(
            f"The session {folder.name} {why}: what is left of its text is in {folder / FILE}."
        ) from None


def _info(folder: Path) -> SessionInfo | None:
    """`None` for a folder in which nothing was saved, or that is gone by now."""
    try:
        nbytes = sum(allocated_bytes(path) for path in folder.iterdir())
        changed = datetime.fromtimestamp(folder.stat().st_mtime).astimezone()
    except OSError as error:
        return SessionInfo(
            folder.name,
            datetime.fromtimestamp(0).astimezone(),
            0,
            trouble=f"cannot be read ({error.strerror})",
        )
    try:
        manifest = read_manifest(folder)
    except FileNotFoundError:
        caches = any(is_left_over(path.name) for path in folder.iterdir())
        return (
            SessionInfo(folder.name, changed, nbytes, trouble="was not saved to its end") if caches else None
        )
    except Unreadable as why:
        return SessionInfo(folder.name, changed, nbytes, trouble=str(why))
    return _of_manifest(folder.name, nbytes, manifest)


def _of_manifest(name: str, nbytes: int, manifest: Manifest) -> SessionInfo:
    asked = [message for message in manifest.messages if message.get("role") == "user"]
    return SessionInfo(
        name,
        manifest.saved_at,
        nbytes,
        manifest.model,
        " ".join(str(asked[0].get("content", "")).split())[:200] if asked else "",
        len(asked),
        manifest.cache.tokens if manifest.cache else 0,
    )
