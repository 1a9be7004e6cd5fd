"""Sizes as people write them, and how much memory this process may take of the machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_qnext.errors import MemoryLimitError, UsageError
from mlx_qnext.experts import cgroup, memory
from mlx_qnext.experts.cgroup import Limit, limits
from mlx_qnext.experts.memory import (
    MachineMemory,
    allotted_bytes,
    available_bytes,
    machine_bytes,
    parse_size,
    peak_bytes,
    resident_bytes,
)
from mlx_qnext.ops.device import Backend

GB = 10**9
V1, V2 = "4:memory:/jobs/mine\n0::/\n", "0::/jobs/mine\n"


def machine(
    monkeypatch: pytest.MonkeyPatch,
    *,
    total: int = 64 * GB,
    free: int = 40 * GB,
    taken: int = 0,
    limit: Limit | None = None,
    backend: Backend = Backend.CPU,
    device: dict[str, int] | None = None,
) -> None:
    """Make this machine another one."""
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(total=total, available=free))
    monkeypatch.setattr(memory, "resident_bytes", lambda: taken)
    monkeypatch.setattr(cgroup, "limits", lambda: [limit] if limit else [])
    monkeypatch.setattr(memory, "backend", lambda: backend)
    monkeypatch.setattr(memory.mx, "device_info", lambda: device or {})


def group(folder: Path, version: str, limit: str, used: int, page_cache: int) -> None:
    names = {
        "v1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        "v2": ("memory.max", "memory.current", ""),
    }
    limit_name, used_name, prefix = names[version]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit_name).write_text(f"{limit}\n")
    (folder / used_name).write_text(f"{used}\n")
    stat = f"anon 5\n{prefix}inactive_file {page_cache - 1}\n{prefix}active_file 1\n"
    (folder / "memory.stat").write_text(stat)


class TestSizes:
    @pytest.mark.parametrize(
        ("text", "size"),
        [
            ("8G", 8 * GB),
            ("8GB", 8 * GB),
            ("8gb", 8 * GB),
            ("8 GB", 8 * GB),
            ("1.5G", 1_500_000_000),
            ("512M", 512_000_000),
            ("512k", 512_000),
            ("2T", 2000 * GB),
            ("8GiB", 8 << 30),
            ("8Gi", 8 << 30),
            ("0.1MiB", 104_857),
            ("8000000000", 8 * GB),
            ("1B", 1),
        ],
    )
    def test_units_are_decimal_unless_they_say_otherwise(self, text: str, size: int) -> None:
        assert parse_size(text) == size

    @pytest.mark.parametrize("text", ["auto", "AUTO", " auto "])
    def test_auto_is_no_size(self, text: str) -> None:
        assert parse_size(text) is None

    @pytest.mark.parametrize(
        "text",
        ["", "G", "0", "0G", "-8G", "8X", "8GG", "8iB", "8.G", ".5G", "1e9", "8G 8G", "nan", "٨G", "9" * 400],
    )
    def test_anything_else_is_refused_in_one_sentence(self, text: str) -> None:
        with pytest.raises(UsageError, match=r"expected auto, or a size such as 8G, 512M or 12\.5GiB\.$"):
            parse_size(text)

    @given(st.integers(1, 10**15 - 1))
    def test_a_number_is_bytes(self, number: int) -> None:
        assert parse_size(str(number)) == number


class TestWhatTheMachineCanSpare:
    def test_a_tenth_of_what_is_free_is_left_to_the_rest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        machine(monkeypatch, free=9 * GB, taken=GB)
        assert allotted_bytes(None) == 9 * GB

    def test_and_no_more_than_four_gigabytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        machine(monkeypatch, total=512 * GB, free=500 * GB)
        assert allotted_bytes(None) == 496 * GB

    def test_a_control_group_bounds_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        machine(monkeypatch, limit=Limit(12 * GB, 10 * GB))
        assert (available_bytes(), machine_bytes(), allotted_bytes(None)) == (10 * GB, 12 * GB, 9 * GB)

    @pytest.mark.parametrize(("free", "spare"), [(100 * GB, 48 * GB), (40 * GB, 36 * GB)])
    def test_on_metal_so_does_what_macos_recommends(
        self, monkeypatch: pytest.MonkeyPatch, free: int, spare: int
    ) -> None:
        device = {"max_recommended_working_set_size": 48 * GB}
        machine(monkeypatch, free=free, backend=Backend.METAL, device=device)
        assert allotted_bytes(None) == spare

    def test_a_gpu_with_memory_of_its_own_counts_that(self, monkeypatch: pytest.MonkeyPatch) -> None:
        machine(monkeypatch, free=GB, backend=Backend.CUDA, device={"total_memory": 80 * GB})
        assert (machine_bytes(), allotted_bytes(None)) == (80 * GB, 76 * GB)

    def test_what_is_asked_for_is_taken_as_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        machine(monkeypatch, total=64 * GB, free=GB)
        assert allotted_bytes(64 * GB) == 64 * GB

    def test_more_than_the_machine_has_is_refused_with_both_sizes(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine(monkeypatch, total=16 * GB)
        with pytest.raises(MemoryLimitError, match=r"20\.0 GB of memory are asked for .* has 16\.0 GB"):
            allotted_bytes(20 * GB)


class TestWhatWasFound:
    def test_a_cpu_has_the_machines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        machine(monkeypatch)
        found = MachineMemory(Backend.CPU, 64 * GB, 40 * GB, None, None, None)
        assert MachineMemory.found() == found

    def test_a_control_group_is_told_where_it_allows_less(self, monkeypatch: pytest.MonkeyPatch) -> None:
        machine(monkeypatch, limit=Limit(12 * GB, 10 * GB))
        assert MachineMemory.found() == MachineMemory(Backend.CPU, 64 * GB, 10 * GB, 12 * GB, None, None)
        machine(monkeypatch, limit=Limit(2**63, 2**63))
        assert MachineMemory.found().control_group_bytes is None

    def test_metal_adds_what_macos_recommends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        device = {"max_recommended_working_set_size": 48 * GB}
        machine(monkeypatch, backend=Backend.METAL, device=device)
        assert MachineMemory.found() == MachineMemory(Backend.METAL, 64 * GB, 40 * GB, None, 48 * GB, None)

    def test_a_gpu_adds_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        machine(monkeypatch, backend=Backend.CUDA, device={"total_memory": 80 * GB})
        assert MachineMemory.found() == MachineMemory(Backend.CUDA, 64 * GB, 40 * GB, None, None, 80 * GB)


class TestControlGroups:
    @pytest.mark.parametrize(("version", "own", "below"), [("v1", V1, "memory"), ("v2", V2, "")])
    def test_page_cache_counts_as_free(self, tmp_path: Path, version: str, own: str, below: str) -> None:
        (tmp_path / "own").write_text(own)
        group(tmp_path / below / "jobs" / "mine", version, str(8 * GB), 5 * GB, 2 * GB)
        assert limits(tmp_path, tmp_path / "own") == [Limit(8 * GB, 5 * GB)]

    def test_every_group_above_counts_too(self, tmp_path: Path) -> None:
        (tmp_path / "own").write_text(V2)
        group(tmp_path / "jobs" / "mine", "v2", str(8 * GB), GB, GB)
        group(tmp_path / "jobs", "v2", str(6 * GB), 2 * GB, GB)
        assert limits(tmp_path, tmp_path / "own") == [Limit(8 * GB, 8 * GB), Limit(6 * GB, 5 * GB)]

    def test_a_path_that_is_not_mounted_here_leads_to_the_root(self, tmp_path: Path) -> None:
        (tmp_path / "own").write_text("0::/host/pod/container\n")
        group(tmp_path, "v2", str(8 * GB), 9 * GB, GB // 2)
        assert limits(tmp_path, tmp_path / "own") == [Limit(8 * GB, 0)]

    def test_a_group_without_a_limit_has_none(self, tmp_path: Path) -> None:
        (tmp_path / "own").write_text(V2)
        group(tmp_path / "jobs" / "mine", "v2", "max", GB, GB)
        assert limits(tmp_path, tmp_path / "own") == []

    def test_where_there_are_none_nothing_is_limited(self, tmp_path: Path) -> None:
        assert limits(tmp_path, tmp_path / "own") == []


def test_the_peak_is_no_less_than_what_is_taken_now() -> None:
    assert 0 < resident_bytes() <= peak_bytes() * 1.01
