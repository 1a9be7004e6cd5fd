"""Where this program keeps things for its user."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from platformdirs import PlatformDirs


def cache_folder() -> Path:
    """What can be done without: `QNEXT_CACHE`, or else where the platform keeps such things.

    Raises:
        RuntimeError: it would lie in the user's home, and there is none.
    """
    return _chosen("QNEXT_CACHE") or _at_home(_platform().user_cache_path)


def sessions_folder() -> Path:
    """Conversations: `QNEXT_SESSIONS`, or else where the platform keeps a user's data.

    Raises:
        RuntimeError: it would lie in the user's home, and there is none.
    """
    return _chosen("QNEXT_SESSIONS") or _at_home(_platform().user_data_path) / "sessions"


def config_file() -> Path:
    """Defaults for the command line: `QNEXT_CONFIG`, or else where the platform keeps a user's settings.

    Raises:
        RuntimeError: it would lie in the user's home, and there is none.
    """
    return _chosen("QNEXT_CONFIG") or _at_home(_platform().user_config_path) / "config.toml"


def history_file() -> Path:
    """What was typed into chats: `QNEXT_HISTORY`, or else where the platform keeps a program's state.

    Raises:
        RuntimeError: it would lie in the user's home, and there is none.
    """
    return _chosen("QNEXT_HISTORY") or _at_home(_platform().user_state_path) / "history.jsonl"


def _platform() -> PlatformDirs:
    # Imported when it is asked: a shell completes most words without it.
    from platformdirs import PlatformDirs

    return PlatformDirs("qnext", appauthor=False)


def _chosen(variable: str) -> Path | None:
    chosen = os.environ.get(variable)
    return Path(chosen) if chosen else None


def _at_home(folder: Path) -> Path:
    # Without a home the tilde stays what it is, and would be a folder of that name.
    if not folder.is_absolute():
        raise RuntimeError("there is no home folder")
    return folder
