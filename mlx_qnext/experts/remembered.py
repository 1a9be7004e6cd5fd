"""What is remembered of a model between runs: small JSON files in the cache folder, one of each kind for a model.

All of it can be done without: it is safe to delete, and what is unreadable or foreign counts for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mlx_qnext.disk import replacing
from mlx_qnext.errors import CheckpointError
from mlx_qnext.folders import cache_folder
from mlx_qnext.json_fields import read_json_object

# A model whose experts are read within a second is not worth a file in the user's cache.
WORTH_REMEMBERING_BYTES = 1_000_000_000


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
        with replacing(file, private=True) as fresh:
            fresh.write_text(json.dumps(content), encoding="utf-8")
    except (OSError, RuntimeError):
        return False
    return True


def _file(kind: str, key: str) -> Path:
    return cache_folder() / kind / f"{key}.json"
