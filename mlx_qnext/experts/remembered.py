"""What is remembered of a model between runs: small JSON files in the cache folder, one of each kind for a model.

All of it can be done without: it is safe to delete, and what is unreadable or foreign counts for nothing.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp

from mlx_qnext.errors import CheckpointError
from mlx_qnext.json_fields import read_json_object

# A model whose experts are read within a second is not worth a file in the user's cache.
WORTH_REMEMBERING_BYTES = 1_000_000_000


def cache_folder() -> Path:
    """Where this program keeps what it can do without: `QNEXT_CACHE`, or else where the platform keeps such things.

    Raises:
        RuntimeError: it would lie in the user's home, and there is none.
    """
    if chosen := os.environ.get("QNEXT_CACHE"):
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "qnext"
    # Relative paths are to be ignored: https://specifications.freedesktop.org/basedir-spec, "XDG_CACHE_HOME".
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (caches if caches.is_absolute() else Path.home() / ".cache") / "qnext"


def recalled(kind: str, key: str) -> dict[str, object]:
    """What was remembered last; empty where nothing is, or what is there is no JSON object.

    Args:
        kind: the folder that the file is in. key: the model's, as `hot_key` makes it.
    """
    try:
        return read_json_object(_file(kind, key))
    except (CheckpointError, RuntimeError):
        return {}


def remember(kind: str, key: str, content: Mapping[str, object]) -> bool:
    """Whether `recalled` now gives this; where it cannot be written, it gives what it gave before."""
    try:
        file = _file(kind, key)
        file.parent.mkdir(parents=True, exist_ok=True)
        _replace(file, json.dumps(content))
    except (OSError, RuntimeError):
        return False
    return True


def _file(kind: str, key: str) -> Path:
    return cache_folder() / kind / f"{key}.json"


def _replace(file: Path, content: str) -> None:
    """Write the file whole or not at all: another run may read or write it at the same time.

    Raises:
        OSError: it cannot be written.
    """
    number, name = mkstemp(dir=file.parent, prefix=".")
    os.close(number)
    written = Path(name)
    try:
        written.write_text(content, encoding="utf-8")
        written.replace(file)
    except BaseException:
        with suppress(OSError):
            written.unlink()
        raise
