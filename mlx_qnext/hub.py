"""From what the user calls a model to the folder that holds it: a folder, an alias, or a hub repository."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from mlx_qnext.errors import ModelNotFoundError
from mlx_qnext.json_fields import shown

DEMO = "demo"

# The one table of short names; all are MLX affine conversions that their publisher made with mlx-lm.
REPOSITORIES = {
    "instruct-4bit": "mlx-community/Qwen3-Next-80B-A3B-Instruct-4bit",
    "instruct-5bit": "mlx-community/Qwen3-Next-80B-A3B-Instruct-5bit",
    "instruct-6bit": "mlx-community/Qwen3-Next-80B-A3B-Instruct-6bit",
    "instruct-8bit": "mlx-community/Qwen3-Next-80B-A3B-Instruct-8bit",
    "thinking-4bit": "mlx-community/Qwen3-Next-80B-A3B-Thinking-4bit",
    "thinking-5bit": "mlx-community/Qwen3-Next-80B-A3B-Thinking-5bit",
    "thinking-6bit": "mlx-community/Qwen3-Next-80B-A3B-Thinking-6bit",
    "thinking-8bit": "mlx-community/Qwen3-Next-80B-A3B-Thinking-8bit",
    "coder-4bit": "mlx-community/Qwen3-Coder-Next-4bit",
    "coder-5bit": "mlx-community/Qwen3-Coder-Next-5bit",
    "coder-6bit": "mlx-community/Qwen3-Coder-Next-6bit",
    "coder-8bit": "mlx-community/Qwen3-Coder-Next-8bit",
}
ALIASES = (DEMO, *REPOSITORIES)

_REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w][\w./-]*))?", re.ASCII)


@dataclass(frozen=True)
class Repository:
    """A hub repository `org/name`; `revision` is a branch, a tag or a commit, `None` the main branch."""

    name: str
    revision: str | None


def locate(model: str) -> Path | Repository:
    """The folder or the hub repository that `model` names. The hub is not asked whether it is there.

    `model` is an alias of `ALIASES`, a folder, or a hub repository `org/name`, optionally at a revision,
    `org/name@revision`. An alias is never looked up as a folder: write `./demo` for a folder named demo.

    Raises:
        ModelNotFoundError: no such folder, and it can be no repository.
    """
    if model == DEMO:
        return embedded_model()
    path = _local_path(model)
    if model not in REPOSITORIES:
        if model and _is_folder(path):
            return path
        _refuse_missing_path(model, path)
    match = _REPOSITORY.fullmatch(REPOSITORIES.get(model, model))
    if match is None:
        raise ModelNotFoundError(_unknown(model))
    return Repository(match[1], match[2])


def resolve(model: str, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """The local folder of what `locate` finds, downloaded first where it is a repository that is not in the cache yet.

    `on_progress(done_bytes, total_bytes)` is called during a download, from its threads, one at a time.

    Raises:
        ModelNotFoundError: nothing of that name. HubError: the download failed.
        UnsupportedModelError, CheckpointError: the repository holds no Qwen3-Next model in safetensors.
    """
    place = locate(model)
    if isinstance(place, Path):
        return place
    # Kept out of the folders' way: the hub's client takes longer to import than a small model to load.
    from mlx_qnext.download import download

    return download(place.name, place.revision, on_progress)


def embedded_model() -> Path:
    """The folder of the small model that is installed with this program.

    Raises:
        ModelNotFoundError: the installation lacks it.
    """
    folder = Path(str(resources.files("mlx_qnext").joinpath("demo", "weights")))
    if not folder.is_dir():
        raise ModelNotFoundError(
            f"{folder} does not exist, which the installation should hold: install again."
        )
    return folder


def _local_path(model: str) -> Path:
    try:
        return Path(model).expanduser()
    except RuntimeError:
        return Path(model)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _refuse_missing_path(model: str, path: Path) -> None:
    """Returns where `model` can still be a repository or is a bare word."""
    try:
        is_file = path.is_file()
    except OSError:
        is_file = False
    if is_file:
        raise ModelNotFoundError(f"{path} is a file, expected the folder that holds a model.")
    if (
        model.startswith(("/", "./", "../", "~"))
        or model.endswith("/")
        or (model.count("/") > 1 and "@" not in model)
    ):
        raise ModelNotFoundError(f"{shown(model)} does not exist: check the path.")


def _unknown(model: str) -> str:
    near = difflib.get_close_matches(model, ALIASES, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return (
        f"{shown(model)} is neither a folder nor a model this program knows: {guess}name a folder, a hub repository "
        f"as org/name, or one of {', '.join(ALIASES)}."
    )
