"""What Linux's control groups leave to this process: limits that a container or a service manager sets.

Both versions are read, and every group above the process's own too: the tightest counts
(https://docs.kernel.org/admin-guide/cgroup-v2.html, "Memory"; v1: https://docs.kernel.org/admin-guide/cgroup-v1/memory.html).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Limit:
    """One group's limit.

    Attributes:
        total_bytes: what all its processes may take. rest_bytes: what of it is free, or is page cache that can be given up.
    """

    total_bytes: int
    rest_bytes: int


@dataclass(frozen=True)
class _Version:
    limit: str
    used: str
    page_cache: tuple[str, ...]


_V1 = _Version("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_V2 = _Version("memory.max", "memory.current", ("inactive_file", "active_file"))


def limits(mounted: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[Limit]:
    """The memory limits that this process is under; none where there are no control groups.

    Args:
        mounted: where the groups are. own: the file that names the process's.
    """
    found = (_limit(folder, version) for folder, version in _groups(mounted, own))
    return [limit for limit in found if limit is not None]


def _groups(mounted: Path, own: Path) -> Iterator[tuple[Path, _Version]]:
    """Every group that the process is in, from its own up to the root.

    In a container the path may be the host's, which is not mounted here; then the root is the container's group.
    """
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root, version = (mounted / "memory", _V1) if controllers else (mounted, _V2)
            group = root / path.lstrip("/")
            yield from (
                (folder, version) for folder in (group, *group.parents) if folder.is_relative_to(root)
            )


def _limit(folder: Path, version: _Version) -> Limit | None:
    """The group's limit; `None` where it has none, which v2 spells "max"."""
    try:
        total, used = (int((folder / name).read_text()) for name in (version.limit, version.used))
        stat = dict(line.split(maxsplit=1) for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    page_cache = sum(int(stat.get(name, 0)) for name in version.page_cache)
    return Limit(total, max(0, total - used + page_cache))
