"""`qnext.json`: how a folder of weights was made, and a digest of every tensor and file in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.disk import replacing
from mlx_qnext.errors import CheckpointError, UsageError
from mlx_qnext.json_fields import REMEDY, Fields, read_json_object, shown
from mlx_qnext.safetensors_header import TensorInfo

FILE = "qnext.json"
FORMAT = 1
_CHUNK_BYTES = 8 << 20
_THREADS = 4

OnBytes = Callable[[int, int], None]
"""Called with bytes read and bytes in all."""


@dataclass(frozen=True)
class Manifest:
    """How a folder was made and what it holds.

    Attributes:
        source, recipe: as people name them. loss: relative error of each rounded module.
        quality: of the whole model, where it was evaluated.
        tensors: name → SHA-256 of its bytes. files: of each other file.
    """

    source: str
    recipe: str
    loss: Mapping[str, float]
    quality: Mapping[str, Any] | None
    tensors: Mapping[str, str]
    files: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """`qnext.json` is in the folder."""
        content = json.dumps({"format": FORMAT, **asdict(self)}, indent=1)
        with replacing(folder / FILE) as fresh:
            fresh.write_text(content + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        UsageError: it has none. CheckpointError: it is damaged.
    """
    if not (folder / FILE).exists():
        raise UsageError(
            f"{folder} has no {FILE}, so there is nothing to verify it against: only what `qnext quantize` made has one."
        )
    fields = Fields(read_json_object(folder / FILE), str(folder / FILE))
    if fields.integer("format", low=1, high=1 << 16) != FORMAT:
        raise fields.error("format", fields.values["format"], f"{FORMAT}, the one this version reads")
    loss = fields.object("loss")
    return Manifest(
        fields.text("source"),
        fields.text("recipe"),
        {name: loss.number(name, low=0.0, high=1e30) for name in loss.values},
        fields.object("quality").values or None,
        _digests(fields.object("tensors")),
        _digests(fields.object("files")),
    )


def _digests(fields: Fields) -> dict[str, str]:
    return {name: fields.text(name) for name in fields.values}


def verify(folder: Path, on_bytes: OnBytes) -> int:
    """The number of tensors of a folder that were read and are what they were when they were made; and so is every other file.

    Raises:
        UsageError: the folder has no manifest. CheckpointError: something is missing, added or changed.
    """
    manifest = read_manifest(folder)
    for name, digest in manifest.files.items():
        if Path(name).name != name or not (folder / name).is_file() or file_digest(folder / name) != digest:
            raise CheckpointError(f"{folder / name} is not what {FILE} describes: {REMEDY}.")
    tensors = Checkpoint.open(folder).tensors
    for name in sorted(tensors.keys() ^ manifest.tensors.keys()):
        where = "lacks" if name in manifest.tensors else "does not name"
        raise CheckpointError(
            f"{folder if where == 'lacks' else folder / FILE} {where} {shown(name)}: {REMEDY}."
        )
    found = tensor_digests(tensors.values(), on_bytes)
    changed = sorted(name for name, digest in found.items() if digest != manifest.tensors[name])
    if changed:
        raise CheckpointError(
            f"{tensors[changed[0]].file} holds {len(changed)} of {len(tensors)} tensors that changed since they were written, "
            f"{shown(changed[0])} first: {REMEDY}."
        )
    return len(tensors)


def tensor_digests(tensors: Iterable[TensorInfo], on_bytes: OnBytes) -> dict[str, str]:
    """Name → SHA-256 of its bytes, read from its file."""
    tensors = list(tensors)
    total_bytes = sum(tensor.nbytes for tensor in tensors)
    digests, done_bytes = {}, 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for tensor, digest in zip(tensors, pool.map(_tensor_digest, tensors), strict=True):
            digests[tensor.name] = digest
            done_bytes += tensor.nbytes
            on_bytes(done_bytes, total_bytes)
    return digests


def _tensor_digest(tensor: TensorInfo) -> str:
    digest = hashlib.sha256()
    with tensor.file.open("rb") as file:
        file.seek(tensor.start)
        missing = tensor.nbytes
        while missing:
            chunk = file.read(min(missing, _CHUNK_BYTES))
            if not chunk:
                raise CheckpointError(f"{tensor.file} changed while it was read: start again.")
            digest.update(chunk)
            missing -= len(chunk)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
