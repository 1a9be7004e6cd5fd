"""The result's safetensors files: laid out whole, then filled piece by piece in any order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from mlx_qnext.disk import write_at
from mlx_qnext.safetensors_header import TensorInfo, header_bytes

METADATA = {"format": "mlx"}


@dataclass(frozen=True)
class OutputFile:
    """One file: its header's bytes, length prefix included, and where its tensors lie behind it."""

    name: str
    header: bytes
    tensors: tuple[TensorInfo, ...]

    @property
    def nbytes(self) -> int:
        """The whole file's size."""
        return self.tensors[-1].end


def lay_out(
    tensors: Iterable[tuple[str, TensorInfo]], max_bytes: int, whole_file: str
) -> tuple[OutputFile, ...]:
    """The files that hold these (file name, tensor) pairs, in their order; one that would grow beyond `max_bytes` is split into
    numbered ones, as every MLX program finds them, but for `whole_file`."""
    members: dict[str, list[TensorInfo]] = {}
    for file, tensor in tensors:
        members.setdefault(file, []).append(tensor)
    return tuple(
        _file(name, part)
        for file, tensors_in_it in members.items()
        for name, part in _named(
            file, _split(tensors_in_it, max_bytes) if file != whole_file else [tensors_in_it]
        )
    )


def _split(tensors: Iterable[TensorInfo], max_bytes: int) -> list[list[TensorInfo]]:
    parts: list[list[TensorInfo]] = [[]]
    for tensor in tensors:
        if parts[-1] and sum(t.nbytes for t in parts[-1]) + tensor.nbytes > max_bytes:
            parts.append([])
        parts[-1].append(tensor)
    return parts


def _named(file: str, parts: Sequence[list[TensorInfo]]) -> Iterator[tuple[str, list[TensorInfo]]]:
    if len(parts) == 1:
        yield file, parts[0]
        return
    stem, suffix = file.rsplit(".", 1)
    for number, part in enumerate(parts, 1):
        yield f"{stem}-{number:05}-of-{len(parts):05}.{suffix}", part


def _file(name: str, tensors: Sequence[TensorInfo]) -> OutputFile:
    header = header_bytes([(t.name, t.dtype, t.shape) for t in tensors], METADATA)
    placed, start = [], len(header)
    for tensor in tensors:
        placed.append(replace(tensor, file=Path(name), start=start, end=start + tensor.nbytes))
        start = placed[-1].end
    return OutputFile(name, header, tuple(placed))


class OutputWriter:
    """The files of one folder, open for writing at any place, from several threads."""

    def __init__(self, folder: Path, files: Sequence[OutputFile]) -> None:
        self._places: Mapping[str, TensorInfo] = {t.name: t for file in files for t in file.tensors}
        self._descriptors: dict[Path, int] = {}
        self._folder, self._files = folder, files

    def __enter__(self) -> Self:
        """Every file has its header and its full size, and takes no room where nothing was written yet."""
        for file in self._files:
            path = self._folder / file.name
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            self._descriptors[Path(file.name)] = descriptor
            os.ftruncate(descriptor, file.nbytes)
            write_at(descriptor, file.header, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def write(self, tensor: str, first_row: int, content: memoryview, row_bytes: int) -> None:
        """Rows of a tensor, from `first_row` on, are in their place."""
        place = self._places[tensor]
        write_at(self._descriptors[place.file], content, place.start + first_row * row_bytes)

    def flush(self) -> None:
        """What was written survives a loss of power."""
        for descriptor in self._descriptors.values():
            os.fsync(descriptor)
