"""Where a chat is remembered: in a session while it lasts, and among the saved ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cli.conversation import Message
from cli.saved import facts_of
from cli.views.sessions import SessionList, goes_on, saved_as
from mlx_qnext.disk import allocated_bytes
from mlx_qnext.errors import SessionError

if TYPE_CHECKING:
    from mlx_qnext import Engine, Session
    from mlx_qnext.sessions.identity import Identity
    from mlx_qnext.sessions.library import SessionLibrary
    from mlx_qnext.sessions.opened import OpenSession


class Keeping:
    """One chat's session, and its place among the saved ones, which no other process has until `close`.

    Attributes:
        session: what the model has read of the chat.
        engine: the model. model: as it is named.
        settings: are saved with the chat.
        automatic: whether it is saved without being asked for.
    """

    def __init__(
        self,
        library: SessionLibrary,
        engine: Engine,
        model: str,
        settings: Mapping[str, Any],
        *,
        automatic: bool,
    ) -> None:
        self.use(engine, model)
        self.settings, self.automatic = settings, automatic
        self._library = library
        self._opened: OpenSession | None = None
        self._kept: list[Message] = []

    @property
    def name(self) -> str | None:
        """Under which it is saved; `None` until it is."""
        return None if self._opened is None else self._opened.name

    def use(self, engine: Engine, model: str) -> None:
        """This model answers from now on; it has read nothing of the chat."""
        self.engine, self.model = engine, model
        self.session: Session = engine.session()

    def adopt(self, settings: Mapping[str, Any]) -> None:
        """These are saved with the chat from now on, and are new where they differ."""
        if settings != self.settings:
            self.settings = settings
            self._kept = []

    def let_go(self) -> None:
        """The model is not held here any more; nothing but `use` can follow."""
        self.engine.close()
        del self.session, self.engine

    def load(self, name: str) -> tuple[list[Message], str]:
        """Be this saved chat from now on: its messages, and a sentence on what became of its cache. Where that
        does not fit, the messages have to be read again.

        Raises:
            UsageError: no session can have that name. SessionError: there is none, it is in use, or it cannot be read; this is
                the chat that it was then.
        """
        opened = self._opened if self._opened and name == self.name else self._library.open(name)
        self._be(opened)
        self._kept = list(opened.messages)
        # The old one is let go first: there may not be room for both.
        self.session = self.engine.session()
        return list(opened.messages), self._resume(opened)

    def save(self, messages: Sequence[Message], name: str | None = None) -> str:
        """All of it is on the disk, under this name from now on; without one, under the name it has, or one made of the time.
        Returns a sentence that says where.

        Raises:
            UsageError: no session can have that name. SessionError: another one has it. OutputError: the disk refuses.
        """
        from mlx_qnext.generate.saved import save_session

        opened = self._opened
        if opened is None or name not in (None, opened.name):
            opened = self._library.create(name)
            self._be(opened)
        refusal = save_session(opened, self.session, self._identity(), messages, self.settings)
        self._kept = list(messages)
        asked = sum(message.get("role") == "user" for message in messages)
        return refusal or saved_as(opened.name, asked, self._nbytes(opened.name))

    def save_what_is_new(self, messages: Sequence[Message]) -> str | None:
        """As `save`; `None`, and nothing is written, where the disk has these messages already, and no setting was changed."""
        return None if list(messages) == self._kept else self.save(messages)

    def begin_another(self) -> None:
        """What is said from now on is another session; what was saved stays as it was."""
        self._be(None)
        self._kept = []

    def listed(self) -> SessionList:
        """All saved sessions.

        Raises:
            SessionError: their folder cannot be read.
        """
        return SessionList([facts_of(info) for info in self._library.list()])

    def close(self) -> None:
        """Others may have it."""
        self._be(None)

    def _be(self, opened: OpenSession | None) -> None:
        if self._opened is not None and self._opened is not opened:
            self._opened.close()
        self._opened = opened

    def _resume(self, opened: OpenSession) -> str:
        from mlx_qnext.generate.saved import resume_session

        try:
            self.session = resume_session(opened, self.engine, self._identity())
        except SessionError as error:
            return f"{error} Here they are read again."
        asked = sum(message.get("role") == "user" for message in opened.messages)
        return goes_on(opened.name, asked, opened.cached_tokens)

    def _identity(self) -> Identity:
        from mlx_qnext.generate.saved import identity_of

        return identity_of(self.engine, self.model)

    def _nbytes(self, name: str) -> int:
        return sum(map(allocated_bytes, (self._library.folder / name).iterdir()))
