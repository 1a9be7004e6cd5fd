"""Which models this machine has: the embedded one, and what of this kind the hub's cache holds. Nothing here asks the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from mlx_qnext.config import Quantization
from mlx_qnext.errors import QnextError
from mlx_qnext.hub import DEMO, REPOSITORIES, embedded_model
from mlx_qnext.json_fields import read_json_object

_ARCHITECTURE = "qwen3_next"
_CONFIG, _INDEX, _MTP, _USED = (
    "config.json",
    "model.safetensors.index.json",
    "mtp.safetensors",
    "tokenizer.json",
)
_PREFIX = "models--"
_MAIN = "main"


@dataclass(frozen=True)
class LocalModel:
    """A model that can be named to any command.

    Attributes:
        name: as short as `--model` takes it. folder: where its files are.
        quantization: as `4-bit g64` or `bf16`; parts may differ. `None` where its configuration does not say.
        mtp: whether it has an MTP head; `None` while too little is there to tell.
        nbytes: on the disk. complete: whether all weights are there.
        used: when its tokenizer was read last, as far as the file system keeps that.
    """

    name: str
    folder: Path
    quantization: str | None
    mtp: bool | None
    nbytes: int
    complete: bool
    used: datetime | None


@dataclass(frozen=True)
class Unreadable:
    """A folder of the cache that may hold models, and why nobody knows."""

    folder: Path
    reason: str


def local_models() -> tuple[list[LocalModel], list[Unreadable]]:
    """The embedded one, then those in the cache by name; and what of the cache cannot be read."""
    found, unreadable = list[LocalModel](), list[Unreadable]()
    for repository in _repositories():
        try:
            for name, snapshot in _snapshots(repository):
                model = _model(name, snapshot)
                found.append(model if model.complete else _with_partial_files(model, repository))
        except OSError as error:
            unreadable.append(Unreadable(repository, error.strerror or str(error)))
    embedded = _model(DEMO, embedded_model())
    return [embedded, *sorted(found, key=lambda model: model.name)], unreadable


def cached_repositories() -> list[str]:
    """The repositories `org/name` that the cache has a model of this kind from, as far as it can be read."""
    return [_repository_name(each) for each in _repositories() if _has_snapshots(each)]


def _repositories() -> list[Path]:
    """Folders of the cache."""
    # The client knows which of its environment variables counts, and this part of it takes no time.
    from huggingface_hub import constants

    try:
        return sorted(Path(constants.HF_HUB_CACHE).glob(f"{_PREFIX}*"))
    except OSError:
        return []


def _repository_name(folder: Path) -> str:
    return folder.name.removeprefix(_PREFIX).replace("--", "/", 1)


def _snapshots(repository: Path) -> Iterator[tuple[str, Path]]:
    """Those of this kind, each with a name that leads to it.

    Raises:
        OSError: one of them cannot be read.
    """
    try:
        commits = sorted(path for path in (repository / "snapshots").iterdir() if path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return
    references = _references(repository / "refs")
    name = _repository_name(repository)
    short = {repo: alias for alias, repo in REPOSITORIES.items()}.get(name, name)
    for folder in commits:
        if _is_ours(folder):
            reference = references.get(folder.name, folder.name)
            yield short if reference == _MAIN else f"{name}@{reference}", folder


def _has_snapshots(repository: Path) -> bool:
    try:
        return any(_snapshots(repository))
    except OSError:
        return False


def _references(folder: Path) -> dict[str, str]:
    """Commit → branch or tag; the main branch before others."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    files.sort(key=lambda path: path.name == _MAIN)
    return {
        path.read_text(encoding="utf-8", errors="replace").strip(): path.relative_to(folder).as_posix()
        for path in files
    }


def _is_ours(snapshot: Path) -> bool:
    config = snapshot / _CONFIG
    try:
        # What is refused is told from what is no model.
        config.open("rb").close()
        return read_json_object(config).get("model_type") == _ARCHITECTURE
    except (FileNotFoundError, NotADirectoryError, QnextError):
        return False


def _model(name: str, folder: Path) -> LocalModel:
    files = {path.name: path.stat() for path in folder.iterdir() if path.is_file()}
    index = _weight_map(folder)
    weights = set(index.values()) or {
        file for file in files if file.startswith("model") and file.endswith(".safetensors")
    }
    complete = bool(weights) and weights <= files.keys()
    used = files.get(_USED)
    return LocalModel(
        name,
        folder,
        _quantization(read_json_object(folder / _CONFIG)),
        _has_mtp(folder, files, index, complete=complete),
        sum(file.st_size for file in files.values()),
        complete,
        datetime.fromtimestamp(used.st_atime).astimezone() if used else None,
    )


def _with_partial_files(model: LocalModel, repository: Path) -> LocalModel:
    """The same, with the bytes of what is fetched or waits to be gone on with; they lie beside, until they are whole."""
    blobs = repository / "blobs"
    nbytes = sum(path.stat().st_size for path in blobs.iterdir()) if blobs.is_dir() else model.nbytes
    return replace(model, nbytes=nbytes)


def _weight_map(folder: Path) -> Mapping[str, str]:
    """Tensor → file; empty where no index says so."""
    try:
        found = read_json_object(folder / _INDEX).get("weight_map")
    except QnextError:
        return {}
    return {name: str(file) for name, file in found.items()} if isinstance(found, dict) else {}


def _has_mtp(
    folder: Path, files: Mapping[str, Any], index: Mapping[str, str], *, complete: bool
) -> bool | None:
    if _MTP in files or any(name.startswith("mtp.") for name in index):
        return True
    if index:
        return False
    if not complete:
        return None
    from mlx_qnext.checkpoint import Checkpoint

    try:
        return Checkpoint.open(folder).has_mtp
    except QnextError:
        return None


def _quantization(config: dict[str, Any]) -> str | None:
    """How most weights are stored, as the configuration says."""
    try:
        found = Quantization.from_dict(config)
    except QnextError:
        foreign = config.get("quantization_config")
        return str(foreign.get("quant_method")) if isinstance(foreign, dict) else None
    if found is not None:
        return f"{found.default.bits}-bit g{found.default.group_size}"
    dtype = config.get("dtype", config.get("torch_dtype"))
    return {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.get(str(dtype))
