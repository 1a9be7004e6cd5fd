"""Ways to spoil a sound model's folder, each a function of what to change that gives a function of the folder."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

Spoil = Callable[[Path], object]


def edit(file: str, **changes: object) -> Spoil:
    """Change keys of a JSON file; `...` removes one."""

    def spoil(folder: Path) -> None:
        content: dict[str, Any] = json.loads((folder / file).read_text())
        content.update(changes)
        kept = {key: value for key, value in content.items() if value is not ...}
        (folder / file).write_text(json.dumps(kept))

    return spoil


def write(file: str, content: str | bytes) -> Spoil:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(data)


def remove(*files: str) -> Spoil:
    return lambda folder: [(folder / file).unlink() for file in files]


def truncate(file: str, keep: int) -> Spoil:
    """Keep the first bytes; a negative number cuts that many off the end."""
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:keep])


def overwrite(file: str, at: int, data: bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        content = bytearray((folder / file).read_bytes())
        content[at : at + len(data)] = data
        (folder / file).write_bytes(content)

    return spoil


def retensor(change: Callable[[dict[str, mx.array]], object], file: str = "model.safetensors") -> Spoil:
    """Save the tensors anew after a change."""

    def spoil(folder: Path) -> None:
        tensors = mx.load(str(folder / file))
        assert isinstance(tensors, dict)
        mx.eval(tensors)
        change(tensors)
        (folder / file).unlink()
        mx.save_safetensors(str(folder / file), tensors, {"format": "mlx"})

    return spoil


def name_missing_shard(folder: Path) -> None:
    weight_map = {"model.norm.weight": "model-00001-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def reheader(change: Callable[[dict[str, Any]], object], grown_bytes: int = 0) -> Spoil:
    """Write the header anew after a change, before the same data and as many bytes of nothing."""

    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = path.read_bytes()
        header = json.loads(content[8 : data_start(content)])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[data_start(content) :])
        os.truncate(path, path.stat().st_size + grown_bytes)

    return spoil


def data_start(content: bytes) -> int:
    return 8 + struct.unpack("<Q", content[:8])[0]


def describe(tensor: str, **changes: object) -> Spoil:
    """Change what the header says of one tensor."""
    return reheader(lambda header: header[tensor].update(changes))


def append_tensor(name: str, dtype: str, shape: list[int], nbytes: int) -> Spoil:
    """A tensor more at the end of the file, whose bytes are there and take no room on the disk."""

    def change(header: dict[str, Any]) -> None:
        end = max(entry["data_offsets"][1] for entry in header.values() if "dtype" in entry)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + nbytes]}

    return reheader(change, nbytes)


def cut_in_data(extra_bytes: int) -> Spoil:
    """Cut the file this many bytes behind its header."""

    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        os.truncate(path, data_start(path.read_bytes()) + extra_bytes)

    return spoil


def replace_weights(file: str) -> Spoil:
    """Only another program's file is left."""

    def spoil(folder: Path) -> None:
        remove("model.safetensors", "mtp.safetensors")(folder)
        write(file, b"x")(folder)

    return spoil
