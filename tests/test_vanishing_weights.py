"""Disks that fail, go away and come back: one sentence while nothing can be read, and the same bytes afterwards."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from failing_reads import (
    PREADV,
    failing,
    failing_on,
    numbers_of,
    open_descriptors,
    read,
    refusing,
    write_weights,
)

from mlx_qnext.errors import CheckpointError
from mlx_qnext.experts import files as files_module
from mlx_qnext.experts.files import WeightFiles


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "model.safetensors")


@pytest.fixture
def content(path: Path) -> bytes:
    return path.read_bytes()


@pytest.fixture
def opened(path: Path) -> Iterator[WeightFiles]:
    files = WeightFiles([path])
    yield files
    files.close()


class TestReadErrors:
    @pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENODEV, errno.EBADF, errno.EACCES])
    def test_an_error_that_passes_is_not_noticed(
        self, code: int, opened: WeightFiles, path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = open_descriptors()
        monkeypatch.setattr(os, "preadv", failing(code, times=1))
        assert read(opened, path) == content[100:1124]
        assert open_descriptors() == before

    @pytest.mark.parametrize(
        ("code", "sentence"),
        [
            (errno.EIO, r"cannot be read \(Input/output error\): check the disk"),
            (errno.ENXIO, "not there any more: connect its disk again"),
            (errno.ESTALE, "not there any more: connect its disk again"),
            (errno.EACCES, r"cannot be read \(Permission denied\): check its permissions"),
        ],
    )
    def test_an_error_that_stays_is_one_sentence_until_it_passes(
        self,
        code: int,
        sentence: str,
        opened: WeightFiles,
        path: Path,
        content: bytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        before = open_descriptors()
        with monkeypatch.context() as patched:
            patched.setattr(os, "preadv", failing(code))
            for _ in range(3):
                with pytest.raises(CheckpointError, match=sentence):
                    read(opened, path)
        assert read(opened, path) == content[100:1124]
        assert open_descriptors() == before

    def test_an_error_behind_the_first_bytes_counts_none_twice(
        self, opened: WeightFiles, path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files_module, "_MAX_BUFFERS", 1)
        left = iter([None])

        def second_fails(number: int, buffers: Sequence[memoryview], offset: int) -> int:
            if offset == 600 and not next(left, True):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return PREADV(number, buffers, offset)

        monkeypatch.setattr(os, "preadv", second_fails)
        assert read(opened, path, 100, [500, 500]) == content[100:1100]
        assert next(left, "used") == "used"

    def test_eight_threads_outlive_a_new_mount_of_the_disk(
        self, opened: WeightFiles, path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, together = open_descriptors(), Barrier(8)
        away = path.rename(path.with_name("away"))
        shutil.copy2(away, path)

        def gone(number: int, buffers: Sequence[memoryview], offset: int) -> int:
            if os.path.sameopenfile(number, held):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return PREADV(number, buffers, offset)

        def work(_: int) -> list[bytes]:
            together.wait(10)
            return [read(opened, path) for _ in range(50)]

        monkeypatch.setattr(os, "preadv", gone)
        with away.open("rb") as file, ThreadPoolExecutor(8) as threads:
            held = file.fileno()
            assert {found for row in threads.map(work, range(8)) for found in row} == {content[100:1124]}
        assert open_descriptors() == before


class TestVanishedDisks:
    """The old descriptor reads no more, and the path leads elsewhere, nowhere, or to the file again."""

    @pytest.fixture(autouse=True)
    def vanished(self, opened: WeightFiles, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        del opened
        monkeypatch.setattr(os, "preadv", failing_on(numbers_of(path)))

    def test_the_same_file_on_a_new_mount_goes_on(
        self, opened: WeightFiles, path: Path, content: bytes
    ) -> None:
        shutil.copy2(path, path.with_suffix(".copy"))
        path.with_suffix(".copy").replace(path)
        assert read(opened, path) == content[100:1124]

    def test_a_missing_file_is_one_sentence_until_it_is_back(
        self, opened: WeightFiles, path: Path, content: bytes
    ) -> None:
        away = path.parent.rename(path.parent.with_name("away"))
        for _ in range(2):
            with pytest.raises(CheckpointError, match="not there any more: connect its disk again"):
                read(opened, path)
        away.rename(path.parent)
        assert read(opened, path) == content[100:1124]

    @pytest.mark.parametrize("difference", ["time", "header", "size"])
    def test_another_file_in_its_place_is_one_sentence(
        self, difference: str, opened: WeightFiles, path: Path, content: bytes
    ) -> None:
        before, status = open_descriptors(), path.stat()
        other = {"header": content.replace(b"experts", b"exports"), "size": content + b"x"}
        path.unlink()
        path.write_bytes(other.get(difference, content))
        moved_ns = 10**9 if difference == "time" else 0
        os.utime(path, ns=(0, status.st_mtime_ns + moved_ns))
        for _ in range(2):
            with pytest.raises(
                CheckpointError, match="another file than the one in use: load the model again"
            ):
                read(opened, path)
        assert open_descriptors() == before

    def test_something_else_in_its_place_is_one_sentence(self, opened: WeightFiles, path: Path) -> None:
        path.unlink()
        path.write_bytes(b"x")
        with pytest.raises(CheckpointError, match="too few for a safetensors file"):
            read(opened, path)
        path.unlink()
        path.mkdir()
        with pytest.raises(CheckpointError, match="Is a directory"):
            read(opened, path)

    @pytest.mark.parametrize(
        ("code", "sentence"),
        [
            (errno.EACCES, r"cannot be read \(Permission denied\): check its permissions"),
            (errno.EMFILE, r"beside \d+ open files: raise the limit with ulimit -n"),
        ],
    )
    def test_a_file_that_cannot_be_opened_anew_is_one_sentence(
        self,
        code: int,
        sentence: str,
        opened: WeightFiles,
        path: Path,
        content: bytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", refusing(code))
            with pytest.raises(CheckpointError, match=sentence):
                read(opened, path)
        assert read(opened, path) == content[100:1124]
