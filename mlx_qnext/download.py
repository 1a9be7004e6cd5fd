"""A hub repository → its folder in the cache that every Hugging Face tool shares, resumable.

`huggingface_hub` keeps what it has finished, and throws away a file that was interrupted. Weights come in files
of several gigabytes, so `blobs` fetches them first, into the client's own store, and resumes them. The client
then finds them in place, fetches the small files, and builds the snapshot. It is the client, too, that honours
HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import tqdm as hub_tqdm

from mlx_qnext.blobs import Blob, Progress, fetch_all
from mlx_qnext.config import ModelConfig
from mlx_qnext.errors import HubError, QnextError, UnsupportedModelError
from mlx_qnext.hub_errors import hub_errors
from mlx_qnext.json_fields import read_json_object

# What a model consists of, and nothing that runs. Folders inside a repository hold other formats.
WANTED = ["*.safetensors", "*.json", "*.jinja", "merges.txt"]
UNWANTED = ["*/*"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class _Listing:
    """What a repository holds at one commit."""

    repo: str
    commit: str
    names: frozenset[str]
    blobs: tuple[Blob, ...]


def download(repo: str, revision: str | None, on_progress: Progress | None = None) -> Path:
    """The snapshot folder of `repo` at `revision` (default: main), complete. What is cached is not fetched again,
    and serves alone while the hub cannot be asked.

    Raises:
        ModelNotFoundError: no such repository or revision. HubError: the hub or the disk refused or failed.
        UnsupportedModelError, CheckpointError: it holds no Qwen3-Next model in safetensors; nothing was fetched.
    """
    with _quiet_client():
        try:
            with hub_errors(repo):
                listing = _list(repo, revision)
        except QnextError:
            cached = _cached(repo, revision)
            if cached is None:
                raise
            return cached
        with hub_errors(repo):
            _complete_blobs(listing, on_progress or _ignore)
            return Path(_snapshot(repo, revision))


@contextmanager
def _quiet_client() -> Iterator[None]:
    """The client logs each broken connection with its signed URL, and resumes: nothing that a user should read."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _list(repo: str, revision: str | None) -> _Listing:
    info = HfApi().model_info(repo, revision=revision or constants.DEFAULT_REVISION, files_metadata=True)
    commit = info.sha or revision or constants.DEFAULT_REVISION
    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"))
    blobs = [
        Blob(hf_hub_url(repo, file.rfilename, revision=commit), file.lfs.sha256, file.lfs.size, folder)
        for file in info.siblings or []
        if file.lfs and _is_weight(file.rfilename) and _SHA256.fullmatch(file.lfs.sha256)
    ]
    names = frozenset(file.rfilename for file in info.siblings or [])
    return _Listing(repo, commit, names, tuple(blobs))


def _is_weight(name: str) -> bool:
    return name.endswith(".safetensors") and "/" not in name


def _snapshot(repo: str, revision: str | None, *, local_files_only: bool = False) -> str:
    return snapshot_download(
        repo,
        revision=revision,
        allow_patterns=WANTED,
        ignore_patterns=UNWANTED,
        local_files_only=local_files_only,
        tqdm_class=_Silent,
    )


def _cached(repo: str, revision: str | None) -> Path | None:
    """The snapshot that an earlier download completed, or `None`."""
    try:
        return Path(_snapshot(repo, revision, local_files_only=True))
    except (OSError, ValueError):
        return None


def _complete_blobs(listing: _Listing, on_progress: Progress) -> None:
    """Every weight file is in the cache, or nothing was fetched because it could not be used."""
    _check_format(listing)
    missing = [blob for blob in listing.blobs if not blob.path.exists()]
    if missing:
        _check_architecture(listing)
        _check_disk(listing.repo, sum(blob.nbytes - blob.present_bytes for blob in missing))
        fetch_all(listing.blobs, on_progress)


def _check_format(listing: _Listing) -> None:
    if not any(_is_weight(name) for name in listing.names):
        raise UnsupportedModelError(
            f"{listing.repo} holds no safetensors files, and only those are loaded: choose another repository."
        )


def _check_architecture(listing: _Listing) -> None:
    """Returns where the configuration, if there is one, is that of a model this program runs: asked before
    gigabytes are fetched."""
    if "config.json" in listing.names:
        path = hf_hub_download(listing.repo, "config.json", revision=listing.commit)
        ModelConfig.from_dict(read_json_object(Path(path)), f"config.json of {listing.repo}")


def _check_disk(repo: str, needed_bytes: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free_bytes = shutil.disk_usage(existing).free
    if needed_bytes > free_bytes:
        raise HubError(
            f"{repo} needs {needed_bytes / 1e9:.1f} GB more in {cache}, and {free_bytes / 1e9:.1f} GB are free: "
            "free some space, or set HF_HOME to a folder on a larger disk."
        )


class _Silent(hub_tqdm):
    """The client's bars, never drawn: what the user sees is this program's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


def _ignore(done_bytes: int, total_bytes: int) -> None:
    """For callers who want no progress."""
