"""The hub's client without its logs and bars: what the user sees of a download is this program's."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.utils import tqdm as hub_tqdm


class SilentBar(hub_tqdm):
    """The client's bar, never drawn."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


class _Level:
    """The client's own log level, put back when the last of those who share it is done."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("huggingface_hub")
        self._lock = threading.Lock()
        self._users = 0
        self._own = logging.NOTSET

    def raise_to_error(self) -> None:
        with self._lock:
            if self._users == 0:
                self._own = self._logger.level
                self._logger.setLevel(logging.ERROR)
            self._users += 1

    def put_back(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._logger.setLevel(self._own)


_LEVEL = _Level()


@contextmanager
def quiet_client() -> Iterator[None]:
    """The client logs each broken connection with its signed URL, and resumes: nothing that a user should read."""
    _LEVEL.raise_to_error()
    try:
        yield
    finally:
        _LEVEL.put_back()
