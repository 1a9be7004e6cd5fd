"""What a model's files hold: configuration, and where every tensor is; no tensor data is read here.

Two layouts are told apart, and never by the presence of `mtp.*`. "hf" is what Qwen publishes: one tensor for each
expert, conv1d [C, 1, K], norm weights centred on zero. "mlx" is what mlx-lm writes: experts stacked in
`switch_mlp`, conv1d [C, K, 1], norm weights with the 1 already added. The MTP head may lie in the trunk's files or
in its own `mtp.safetensors`, and has a layout of its own.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

from mlx_qnext.config import Precision, Quantization
from mlx_qnext.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError
from mlx_qnext.json_fields import REMEDY, Fields, read_json_object, shown
from mlx_qnext.safetensors_header import Header, TensorInfo, read_header

if TYPE_CHECKING:
    import mlx.core as mx

__all__ = ["Checkpoint", "Files", "Layout", "TensorInfo"]

Layout = Literal["hf", "mlx"]

INDEX_FILE = "model.safetensors.index.json"
MTP_FILE = "mtp.safetensors"
MTP_PREFIX = "mtp."
PLAIN_DTYPES = ("BF16", "F16", "F32")
PACKED_DTYPE = "U32"
LOADABLE_DTYPES = (*PLAIN_DTYPES, PACKED_DTYPE)
OTHER_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".npz", ".h5", ".onnx")

_UNFUSED_EXPERT = re.compile(r"\.mlp\.experts\.\d+\.")


class Files(Protocol):
    """Where a checkpoint's files are, and how their beginnings are read."""

    @property
    def folder(self) -> Path:
        """What holds them, as errors name it."""
        ...

    @property
    def names(self) -> frozenset[str]:
        """All of them."""
        ...

    def read_json(self, name: str) -> dict[str, object]:
        """The JSON object in one of them; raises CheckpointError."""
        ...

    def read_headers(self, names: Sequence[str]) -> Mapping[str, Header]:
        """The headers of the weight files named, their tensors in `folder`; raises CheckpointError."""
        ...


@dataclass(frozen=True)
class _LocalFiles:
    folder: Path
    names: frozenset[str]

    def read_json(self, name: str) -> dict[str, object]:
        return read_json_object(self.folder / name)

    def read_headers(self, names: Sequence[str]) -> Mapping[str, Header]:
        return {name: read_header(self.folder / name) for name in names}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model's folder whose headers, index and byte ranges agree with each other and with the files' sizes.

    Attributes:
        tensors: every tensor by its name, across files.
        metadata: each file's free-form metadata, by file name.
        layout: that of the trunk. mtp_layout: that of the MTP head, `None` where there is none.
    """

    folder: Path
    config: dict[str, object]
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, Mapping[str, str]]
    layout: Layout
    mtp_layout: Layout | None

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """The checkpoint in `folder`. Its `config` is JSON and no more: `ModelConfig.from_dict` checks it.

        Raises:
            ModelNotFoundError: no such folder.
            CheckpointError: files are missing, damaged, or contradict each other.
            UnsupportedModelError: the weights are in another format than safetensors.
        """
        return cls.read(_LocalFiles(folder, _file_names(folder)))

    @classmethod
    def read(cls, files: Files) -> Checkpoint:
        """The checkpoint that `files` hold.

        Raises:
            CheckpointError, UnsupportedModelError: as `open`. Whatever `files` raises passes.
        """
        _refuse_other_formats(files)
        config = files.read_json("config.json")
        placed = _read_index(files) if INDEX_FILE in files.names else {}
        headers = files.read_headers(_weight_files(files, placed))
        tensors: dict[str, TensorInfo] = {}
        for header in headers.values():
            _add_tensors(tensors, header.tensors)
        _check_index(files.folder, placed, tensors)
        metadata = {file: header.metadata for file, header in headers.items()}
        trunk = [tensor for name, tensor in tensors.items() if not name.startswith(MTP_PREFIX)]
        mtp = [tensor for name, tensor in tensors.items() if name.startswith(MTP_PREFIX)]
        mtp_layout = _layout(mtp, metadata) if mtp else None
        return cls(files.folder, config, tensors, metadata, _layout(trunk, metadata), mtp_layout)

    def in_folder(self, folder: Path) -> Checkpoint:
        """The same checkpoint, its files in `folder`."""
        tensors = {
            name: replace(tensor, file=folder / tensor.file.name) for name, tensor in self.tensors.items()
        }
        return replace(self, folder=folder, tensors=tensors)

    @property
    def has_mtp(self) -> bool:
        """Whether any file holds the multi-token-prediction head."""
        return self.mtp_layout is not None

    @cached_property
    def quantization(self) -> Quantization | None:
        """What the configuration says of quantised modules.

        Raises:
            UnsupportedModelError, CheckpointError: as `Quantization.from_dict`.
        """
        return Quantization.from_dict(self.config)

    def precision_of(self, module: str) -> Precision | None:
        """How the module's weight is packed, checked against its shapes; `None` where it is not quantised.

        Raises:
            CheckpointError: files and configuration disagree.
        """
        scales = self.tensors.get(f"{module}.scales")
        if scales is None:
            return None
        weight = self.tensors.get(f"{module}.weight")
        if weight is None or weight.dtype != PACKED_DTYPE:
            found = "no weight" if weight is None else f"a weight in {weight.dtype}"
            raise CheckpointError(
                f"{module} has scales and {found}, expected a packed weight in {PACKED_DTYPE}: {REMEDY}."
            )
        precision = self.quantization.for_module(module) if self.quantization else None
        if precision is None:
            raise CheckpointError(
                f"{module} has scales, and config.json names no bits and group size for it: {REMEDY}."
            )
        precision.check_packing(module, weight.shape, scales.shape)
        return precision

    def arrays(self, names: Iterable[str]) -> dict[str, mx.array]:
        """The tensors named, as lazy MLX arrays: their bytes are read when they are first computed with.

        Nothing is kept here, so that a caller who replaces an array by a fused one frees it.

        Raises:
            CheckpointError: no such tensor, or the file changed since it was opened.
            UnsupportedModelError: a dtype that this program does not compute with.
        """
        import mlx.core as mx

        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self._loadable(name).file, []).append(name)
        arrays: dict[str, mx.array] = {}
        for file, wanted in by_file.items():
            try:
                loaded = cast("dict[str, mx.array]", mx.load(str(file)))
                arrays |= {name: loaded[name] for name in wanted}
            except (RuntimeError, ValueError, KeyError):
                raise _unloadable(file) from None
        return arrays

    def _loadable(self, name: str) -> TensorInfo:
        tensor = self.tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{self.folder} has no tensor {shown(name)}: {REMEDY}.")
        if tensor.dtype not in LOADABLE_DTYPES:
            raise UnsupportedModelError(
                f"{tensor.file} holds {shown(name)} as {tensor.dtype}, and only {', '.join(LOADABLE_DTYPES)} are "
                "computed with here: choose a bf16 model or one quantised with mlx-lm."
            )
        return tensor


def _unloadable(file: Path) -> CheckpointError:
    """Why MLX, which does not say it, cannot load a file that was sound a moment ago."""
    try:
        file.open("rb").close()
    except OSError as error:
        remedy = "raise the limit with ulimit -n" if error.errno == errno.EMFILE else "check the disk"
        return CheckpointError(f"{file} cannot be opened ({error.strerror}): {remedy}.")
    return CheckpointError(f"{file} changed while it was read: start again.")


def _file_names(folder: Path) -> frozenset[str]:
    try:
        if not folder.exists():
            raise ModelNotFoundError(f"{folder} does not exist: check the path.")
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is a file, expected the folder that holds a model.")
        return frozenset(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read ({error.strerror}): check its permissions.") from None


def _refuse_other_formats(files: Files) -> None:
    if any(name.endswith(".safetensors") for name in files.names):
        return
    others = sorted(name for name in files.names if name.endswith(OTHER_FORMATS))
    if others:
        raise UnsupportedModelError(
            f"{files.folder} holds {others[0]}, and only safetensors files are loaded: choose a model published as such."
        )


def _read_index(files: Files) -> dict[str, str]:
    """Tensor name → file name, as the index says; each one a plain name that cannot lead out of the folder."""
    source = str(files.folder / INDEX_FILE)
    weight_map = Fields(files.read_json(INDEX_FILE), source).object("weight_map")
    placed = {tensor: weight_map.text(tensor) for tensor in weight_map.values}
    for file in set(placed.values()):
        if Path(file).name != file or "\\" in file or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{source} names the file {shown(file)}, expected a .safetensors file: {REMEDY}."
            )
    return placed


def _weight_files(files: Files, placed: Mapping[str, str]) -> list[str]:
    names = set(placed.values()) or {
        name for name in files.names if name.startswith("model") and name.endswith(".safetensors")
    }
    missing = sorted(names - files.names)
    if missing:
        raise CheckpointError(f"{files.folder} lacks {shown(missing[0])}, which its index names: {REMEDY}.")
    if not names:
        raise CheckpointError(f"{files.folder} has no model*.safetensors: {REMEDY}.")
    return sorted(names | ({MTP_FILE} & files.names))


def _add_tensors(tensors: dict[str, TensorInfo], added: Iterable[TensorInfo]) -> None:
    for tensor in added:
        first = tensors.setdefault(tensor.name, tensor)
        if first is not tensor:
            raise CheckpointError(
                f"{shown(tensor.name)} is both in {first.file} and in {tensor.file.name}, expected once: {REMEDY}."
            )


def _check_index(folder: Path, placed: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> None:
    for name, file in placed.items():
        if name not in tensors or tensors[name].file.name != file:
            raise CheckpointError(
                f"{folder / INDEX_FILE} places {shown(name)} in {shown(file)}, which does not hold it: {REMEDY}."
            )


def _layout(tensors: list[TensorInfo], metadata: Mapping[str, Mapping[str, str]]) -> Layout:
    """Decided by how experts are stored; without experts by the convolution's axes, and last by the file's marker."""
    stacked = next((tensor for tensor in tensors if ".switch_mlp." in tensor.name), None)
    unfused = next((tensor for tensor in tensors if _UNFUSED_EXPERT.search(tensor.name)), None)
    fused = next((tensor for tensor in tensors if tensor.name.endswith(".mlp.experts.gate_up_proj")), None)
    if fused:
        raise UnsupportedModelError(
            f"{fused.file} stores experts as {shown(fused.name)}, expected experts.N or switch_mlp: save the model with "
            "transformers' original tensor names."
        )
    if stacked and unfused:
        raise CheckpointError(
            f"{shown(stacked.name)} and {shown(unfused.name)} are of two layouts, expected one: {REMEDY}."
        )
    if stacked or unfused:
        return "mlx" if stacked else "hf"
    for tensor in tensors:
        if (
            tensor.name.endswith(".conv1d.weight")
            and len(tensor.shape) == 3
            and tensor.shape[1] != tensor.shape[2]
        ):
            return "mlx" if tensor.shape[2] == 1 else "hf"
    marked = any(metadata[tensor.file.name].get("format") == "mlx" for tensor in tensors)
    return "mlx" if marked else "hf"
