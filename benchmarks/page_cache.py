"""Cold files: weights that the system no longer holds in memory, so that reading them is reading the disk."""

from __future__ import annotations

import os
from pathlib import Path


def forget(folder: Path) -> None:
    """Let the system's page cache drop every safetensors file in the folder; only on Linux, and only pages that are written."""
    for path in folder.glob("*.safetensors"):
        number = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(number)
