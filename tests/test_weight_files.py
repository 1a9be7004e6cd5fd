"""Every read of a weight file gives the bytes that were checked, or one sentence."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from failing_reads import (
    OPEN,
    PREADV,
    failing_on,
    numbers_of,
    open_descriptors,
    read,
    refusing,
    write_weights,
)
from hypothesis import given
from hypothesis import strategies as st

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


def keep_times(path: Path, change: Callable[[], object]) -> None:
    status = path.stat()
    change()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


class TestReading:
    @given(data=st.data())
    def test_any_split_of_buffers_and_of_short_reads_gives_the_same_bytes(
        self, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "split.safetensors"
        content = (path if path.exists() else write_weights(path)).read_bytes()
        sizes = data.draw(st.lists(st.integers(0, 300), max_size=8))
        offset = data.draw(st.integers(0, len(content) - sum(sizes)))
        shares = data.draw(st.lists(st.integers(1, 400), min_size=1))

        def short(number: int, buffers: Sequence[memoryview], start: int) -> int:
            share = shares[start % len(shares)]
            views = [view[: max(0, share - sum(map(len, buffers[:n])))] for n, view in enumerate(buffers)]
            return PREADV(number, views, start)

        with pytest.MonkeyPatch.context() as patched:
            files = WeightFiles([path])
            patched.setattr(os, "preadv", short)
            assert read(files, path, offset, sizes) == content[offset : offset + sum(sizes)]
            files.close()

    def test_more_buffers_than_one_call_takes_are_filled(
        self, opened: WeightFiles, path: Path, content: bytes
    ) -> None:
        assert read(opened, path, 5, [1] * 2500) == content[5:2505]

    def test_more_bytes_than_one_call_takes_are_read(
        self, opened: WeightFiles, path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files_module, "_MAX_CALL_BYTES", 7)
        assert read(opened, path, 5, [3, 20, 10]) == content[5:38]

    def test_the_last_byte_is_read_and_the_one_behind_it_is_not_there(
        self, opened: WeightFiles, path: Path, content: bytes
    ) -> None:
        assert read(opened, path, len(content) - 1, [1]) == content[-1:]
        with pytest.raises(CheckpointError, match=r"gave 1 bytes at \d+, expected 2"):
            read(opened, path, len(content) - 1, [2])

    def test_eight_threads_read_each_what_they_asked_for(self, tmp_path: Path) -> None:
        paths = [write_weights(tmp_path / f"{n}.safetensors", n) for n in range(3)]
        contents = {path: path.read_bytes() for path in paths}
        files = WeightFiles(paths)
        random = np.random.default_rng(0)
        wanted = [(paths[random.integers(3)], int(random.integers(3000))) for _ in range(800)]
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda place: read(files, *place), wanted))
        files.close()
        assert found == [contents[path][offset : offset + 1024] for path, offset in wanted]

    def test_a_file_named_twice_is_opened_once(self, path: Path) -> None:
        before = open_descriptors()
        files = WeightFiles([path, path])
        assert open_descriptors() == before + 1
        files.close()
        assert open_descriptors() == before

    def test_programs_started_meanwhile_inherit_nothing(self, opened: WeightFiles, path: Path) -> None:
        (number,) = numbers_of(path)
        code = f"import os, sys; os.fstat({number})"
        assert subprocess.run(
            [sys.executable, "-S", "-c", code], close_fds=False, capture_output=True
        ).returncode


class TestClosing:
    def test_a_closed_file_is_read_no_more_and_closed_again_in_vain(
        self, opened: WeightFiles, path: Path
    ) -> None:
        opened.close()
        opened.close()
        with pytest.raises(CheckpointError, match="closed with its model"):
            read(opened, path)

    def test_a_read_under_way_ends_well(
        self, opened: WeightFiles, path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, closed = Event(), Event()

        def slow(number: int, buffers: Sequence[memoryview], offset: int) -> int:
            begun.set()
            assert closed.wait(10)
            return PREADV(number, buffers, offset)

        monkeypatch.setattr(os, "preadv", slow)
        with ThreadPoolExecutor(1) as thread:
            result = thread.submit(read, opened, path)
            assert begun.wait(10)
            opened.close()
            closed.set()
            assert result.result() == content[100:1124]
        assert not numbers_of(path)

    def test_a_file_opened_anew_while_all_are_closed_stays_closed(
        self, opened: WeightFiles, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failed = failing_on(numbers_of(path))

        def close_behind(*arguments: object, **named: object) -> int:
            number = OPEN(*arguments, **named)
            opened.close()
            return number

        monkeypatch.setattr(os, "preadv", failed)
        monkeypatch.setattr(os, "open", close_behind)
        with pytest.raises(CheckpointError, match="closed"):
            read(opened, path)
        assert not numbers_of(path)


class TestChangedFiles:
    def test_one_renamed_over_an_open_file_changes_nothing(
        self, opened: WeightFiles, path: Path, content: bytes, tmp_path: Path
    ) -> None:
        write_weights(tmp_path / "new.safetensors", 1).replace(path)
        assert path.read_bytes() != content
        assert read(opened, path) == content[100:1124]

    def test_a_deleted_file_changes_nothing_while_its_disk_is_there(
        self, opened: WeightFiles, path: Path, content: bytes
    ) -> None:
        path.unlink()
        assert read(opened, path) == content[100:1124]

    def test_a_file_written_in_place_is_one_sentence(
        self, opened: WeightFiles, path: Path, content: bytes
    ) -> None:
        path.write_bytes(content[:-1] + b"x")
        os.utime(path, ns=(0, 0))
        with pytest.raises(CheckpointError, match="was written to while it is in use: load the model again"):
            read(opened, path)

    def test_a_file_that_grew_is_one_sentence(self, opened: WeightFiles, path: Path, content: bytes) -> None:
        keep_times(path, lambda: path.write_bytes(content + b"x"))
        with pytest.raises(CheckpointError, match="was written to"):
            read(opened, path)

    @pytest.mark.parametrize("kept_bytes", [0, 50, 500, 4000])
    def test_a_file_cut_short_is_one_sentence_wherever_the_read_lies(
        self, kept_bytes: int, opened: WeightFiles, path: Path
    ) -> None:
        keep_times(path, lambda: os.truncate(path, kept_bytes))
        with pytest.raises(CheckpointError, match=f"cut short: {kept_bytes} bytes, expected"):
            read(opened, path)

    def test_a_change_during_the_read_is_noticed(
        self, opened: WeightFiles, path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def change_behind(number: int, buffers: Sequence[memoryview], offset: int) -> int:
            count = PREADV(number, buffers, offset)
            path.write_bytes(content)
            os.utime(path, ns=(0, 0))
            return count

        monkeypatch.setattr(os, "preadv", change_behind)
        with pytest.raises(CheckpointError, match="was written to"):
            read(opened, path)

    def test_a_cut_file_that_is_made_whole_is_read_again(
        self, opened: WeightFiles, path: Path, content: bytes
    ) -> None:
        status = path.stat()
        os.truncate(path, 50)
        with pytest.raises(CheckpointError, match="cut short"):
            read(opened, path)
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert read(opened, path) == content[100:1124]


class TestOpening:
    def test_a_missing_file_closes_those_before_it(self, path: Path) -> None:
        before = open_descriptors()
        with pytest.raises(CheckpointError, match="not there"):
            WeightFiles([path, path.with_name("missing.safetensors")])
        assert open_descriptors() == before

    def test_a_forbidden_file_is_one_sentence(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "open", refusing(errno.EACCES))
        with pytest.raises(CheckpointError, match="check its permissions"):
            WeightFiles([path])

    def test_what_is_no_safetensors_file_is_one_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "long.safetensors").write_bytes(b"\xff" * 100)
        with pytest.raises(CheckpointError, match="announces a header of"):
            WeightFiles([tmp_path / "long.safetensors"])

    def test_too_many_open_files_are_one_sentence_that_names_the_limit(self, path: Path) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # A limit under the numbers in use forbids every new one.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(
                CheckpointError, match="cannot be opened beside 3 open files: raise the limit"
            ):
                WeightFiles([path])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
