"""A file that is replaced is the old one or the new one, and the new one is on the disk before it has the name."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from mlx_qnext.disk import flush, replacing


def test_two_programs_may_replace_one_file_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as one, replacing(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_bytes_are_flushed_before_the_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync, rename = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "bytes")
        sync(descriptor)

    def renamed(fresh: Path, path: Path) -> Path:
        steps.append("rename")
        return rename(fresh, path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    monkeypatch.delattr(fcntl, "F_FULLFSYNC", raising=False)
    with replacing(tmp_path / "file") as fresh:
        fresh.write_text("new")
    assert steps == ["bytes", "rename", "folder"]


@pytest.mark.parametrize("known", [True, False])
def test_a_mac_flushes_its_drives_cache_too_where_the_file_system_can(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def control(descriptor: int, command: int) -> int:
        asked.append("full")
        if not known:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        return 0

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", control)
    monkeypatch.setattr(os, "fsync", lambda _: asked.append("plain"))
    with (tmp_path / "file").open("wb") as file:
        flush(file.fileno())
    assert asked == (["full"] if known else ["full", "plain"])
