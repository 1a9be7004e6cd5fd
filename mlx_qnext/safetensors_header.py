"""The header of a safetensors file, checked against the file's real size before anything trusts it.

Format: 8 bytes of little-endian header length, a JSON header, then the tensors' bytes end to end
(https://huggingface.co/docs/safetensors, "Format"). What is refused here is what the reference implementation
refuses. No tensor data is read, and nothing is allocated beyond the header's own bytes, which must be in the file.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from mlx_qnext.errors import CheckpointError
from mlx_qnext.json_fields import REMEDY, parse_json_object, shown

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
MAX_RANK = 8
MAX_DIMENSION = 1 << 48
_ALIGNMENT = 8

DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: bytes [start, end) of `file`, counted from the file's first byte."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self.end - self.start


@dataclass(frozen=True)
class Header:
    """One file's tensors in the order of their bytes, and its free-form metadata."""

    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]


def header_bytes(tensors: Iterable[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str]) -> bytes:
    """The beginning of a file, length prefix included, in which these tensors lie end to end behind it.

    Args:
        tensors: name, dtype as it is spelled in `DTYPE_BITS`, and shape of each, in their order.
    """
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name, dtype, shape in tensors:
        end = start + prod(shape) * DTYPE_BITS[dtype] // 8
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    content = json.dumps(entries, separators=(",", ":")).encode()
    content += b" " * (-len(content) % _ALIGNMENT)
    return len(content).to_bytes(LENGTH_BYTES, "little") + content


def read_header(path: Path) -> Header:
    """The header of the safetensors file at `path`; its tensors fill the rest of the file exactly, without overlap.

    Raises:
        CheckpointError: the file is missing, cut short, or contradicts itself.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing or not a regular file: {REMEDY}.")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(header_length(file.read(LENGTH_BYTES), path, size))
    except OSError as error:
        remedy = "raise the limit with ulimit -n" if error.errno == errno.EMFILE else "check its permissions"
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): {remedy}.") from None
    return parse_header(content, path, size)


def header_length(start: bytes, file: Path, size: int) -> int:
    """The length of the header as `start`, the first `LENGTH_BYTES` of a file of `size` bytes, announces it.

    Raises:
        CheckpointError: the file has no room for it, or it is longer than any header may be.
    """
    if size < LENGTH_BYTES:
        raise CheckpointError(f"{file} has {size} bytes, too few for a safetensors file: {REMEDY}.")
    length = int.from_bytes(start, "little")
    room = min(size - LENGTH_BYTES, MAX_HEADER_BYTES)
    if length > room:
        raise CheckpointError(
            f"{file} announces a header of {length} bytes, expected at most {room} in a file of {size} bytes: {REMEDY}."
        )
    return length


def parse_header(content: bytes, file: Path, size: int) -> Header:
    """The header whose JSON is `content`; its tensors fill a file of `size` bytes exactly, without overlap.

    Raises:
        CheckpointError: it is damaged, contradicts itself, or describes more or less than the file holds.
    """
    entries = parse_json_object(content, f"the header of {file}")
    metadata = _metadata(entries.pop("__metadata__", None), file)
    data_start = LENGTH_BYTES + len(content)
    tensors = [_tensor(name, entry, file, data_start) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    _check_layout(tensors, file, data_start, size)
    return Header(tuple(tensors), metadata)


def _metadata(entry: object, path: Path) -> Mapping[str, str]:
    if entry is None:
        return {}
    if not isinstance(entry, dict):
        raise CheckpointError(f"{path} has metadata {shown(entry)}, expected an object of strings: {REMEDY}.")
    metadata = {key: value for key, value in entry.items() if isinstance(value, str)}
    if len(metadata) != len(entry):
        raise CheckpointError(f"{path} has metadata {shown(entry)}, expected an object of strings: {REMEDY}.")
    return metadata


def _tensor(name: str, entry: object, path: Path, data_start: int) -> TensorInfo:
    """One entry of the header, its byte count equal to what dtype and shape need; its place is checked later."""
    where = f"{path} describes the tensor {shown(name)} with"
    if not isinstance(entry, dict):
        raise CheckpointError(f"{where} {shown(entry)}, expected dtype, shape and data_offsets: {REMEDY}.")
    dtype, bits = entry.get("dtype"), DTYPE_BITS.get(str(entry.get("dtype")))
    if not isinstance(dtype, str) or bits is None:
        raise CheckpointError(f"{where} dtype {shown(dtype)}, expected a safetensors dtype: {REMEDY}.")
    shape = _integers(entry.get("shape"), MAX_DIMENSION)
    if shape is None or len(shape) > MAX_RANK:
        raise CheckpointError(
            f"{where} shape {shown(entry.get('shape'))}, expected at most {MAX_RANK} sizes: {REMEDY}."
        )
    offsets = _integers(entry.get("data_offsets"), MAX_DIMENSION)
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(
            f"{where} data_offsets {shown(entry.get('data_offsets'))}, expected [begin, end]: {REMEDY}."
        )
    begin, end = offsets
    if (end - begin) * 8 != prod(shape) * bits:
        raise CheckpointError(
            f"{where} {end - begin} bytes, and {dtype} of shape {list(shape)} takes {prod(shape) * bits // 8}: {REMEDY}."
        )
    return TensorInfo(name, path, dtype, shape, data_start + begin, data_start + end)


def _integers(value: object, high: int) -> tuple[int, ...] | None:
    """The list as a tuple, or `None` where it is anything but a list of integers in [0, high]."""
    if not isinstance(value, list):
        return None
    if not all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= high for item in value):
        return None
    return tuple(value)


def _check_layout(tensors: Sequence[TensorInfo], path: Path, data_start: int, size: int) -> None:
    """Returns where the tensors, in the order of their bytes, fill the file from `data_start` to its end."""
    position = data_start
    for tensor in tensors:
        if tensor.start != position:
            fault = "overlaps the one before it" if tensor.start < position else "leaves a gap before it"
            raise CheckpointError(
                f"{path} describes the tensor {shown(tensor.name)}, which {fault}: {REMEDY}."
            )
        position = tensor.end
    if position > size:
        raise CheckpointError(f"{path} is cut short: {size} bytes, expected {position}: {REMEDY}.")
    if position < size:
        raise CheckpointError(f"{path} has {size} bytes, and its header describes only {position}: {REMEDY}.")
