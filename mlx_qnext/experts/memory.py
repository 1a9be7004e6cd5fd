"""How much memory there is, how much of it this process may take, and how much it has taken."""

from __future__ import annotations

import re
import resource
import sys
from dataclasses import dataclass
from decimal import Decimal

import mlx.core as mx
import psutil

from mlx_qnext.errors import MemoryLimitError, UsageError
from mlx_qnext.experts import cgroup
from mlx_qnext.ops.device import Backend, backend

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)(?:([KMGT])(I?)B?|B)?", re.ASCII)
_POWERS = {None: 0, "K": 1, "M": 2, "G": 3, "T": 4}

# Of what is free, a tenth is left to other programs and to the system's page cache, and never more than this.
_MOST_LEFT_BYTES = 4_000_000_000


@dataclass(frozen=True)
class MachineMemory:
    """What this machine has of memory, in bytes; `None` where the back end or the system has no such number.

    Attributes:
        physical_bytes, available_bytes: of the machine, as its system counts.
        control_group_bytes: what the narrowest group of processes around this one is allowed of it.
        recommended_bytes: what macOS recommends to keep for the GPU, which shares the machine's memory.
        gpu_bytes: of a GPU with memory of its own.
    """

    backend: Backend
    physical_bytes: int
    available_bytes: int
    control_group_bytes: int | None
    recommended_bytes: int | None
    gpu_bytes: int | None

    @classmethod
    def found(cls) -> MachineMemory:
        """This machine's, now."""
        here, physical_bytes = backend(), psutil.virtual_memory().total
        device = {} if here is Backend.CPU else mx.device_info()
        # A group without a limit may name one beyond any machine.
        limits = [limit.total_bytes for limit in cgroup.limits() if limit.total_bytes < physical_bytes]
        return cls(
            here,
            physical_bytes,
            available_bytes(),
            min(limits, default=None),
            int(device["max_recommended_working_set_size"]) if here is Backend.METAL else None,
            int(device["total_memory"]) if here is Backend.CUDA else None,
        )


def parse_size(text: str) -> int | None:
    """The bytes that a size names; `None` for `auto`.

    `8G` and `8GB` are 8·10⁹, as disks and Apple count, `8GiB` and `8Gi` are 8·2³⁰; K, M and T alike, in either case. A bare
    number is bytes.

    Raises:
        UsageError: it names none, or less than a byte.
    """
    if text.strip().lower() == "auto":
        return None
    parts = _SIZE.fullmatch(text.strip().replace(" ", "").upper())
    bytes_ = 0
    if parts is not None:
        number, unit, binary = parts.groups()
        bytes_ = int(Decimal(number) * (1024 if binary else 1000) ** _POWERS[unit])
    if bytes_ < 1:
        raise UsageError(
            f"{text!r} is no size of memory, expected auto, or a size such as 8G, 512M or 12.5GiB."
        )
    return bytes_


def allotted_bytes(asked_bytes: int | None) -> int:
    """What the model may take in all: what was asked for, or, where that is `None`, what the machine can spare.

    The latter is what is free, less a tenth for everything else; on Metal at most what macOS recommends to keep there.

    Raises:
        MemoryLimitError: more was asked for than the machine has.
    """
    if asked_bytes is None:
        return _spare_bytes()
    if asked_bytes > (has := machine_bytes()):
        raise MemoryLimitError(
            f"{asked_bytes / 1e9:.1f} GB of memory are asked for and this machine has {has / 1e9:.1f} GB: ask for less, or "
            "for auto."
        )
    return asked_bytes


def machine_bytes() -> int:
    """All the memory that there is for this process to compute in: the GPU's where it has its own, else the machine's, or
    what a control group allows of it."""
    if backend() is Backend.CUDA:
        return int(mx.device_info()["total_memory"])
    return min([psutil.virtual_memory().total, *(limit.total_bytes for limit in cgroup.limits())])


def available_bytes() -> int:
    """What this process could take of the machine's memory beyond what it has, without anything being swapped out."""
    return min([psutil.virtual_memory().available, *(limit.rest_bytes for limit in cgroup.limits())])


def resident_bytes() -> int:
    """What this process takes of the machine's memory now."""
    return psutil.Process().memory_info().rss


def peak_bytes() -> int:
    """The most that this process has taken; what it took of a GPU's memory, where that was more."""
    # https://docs.python.org/3/library/resource.html: kilobytes, and bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return resident if backend() is Backend.CPU else max(resident, mx.get_peak_memory())


def _spare_bytes() -> int:
    free = machine_bytes() if backend() is Backend.CUDA else available_bytes() + resident_bytes()
    spare = free - min(free // 10, _MOST_LEFT_BYTES)
    if backend() is Backend.METAL:
        return min(spare, int(mx.device_info()["max_recommended_working_set_size"]))
    return spare
