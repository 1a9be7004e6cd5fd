"""What a hub repository holds at one commit, and where the client's cache keeps it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoSibling

from mlx_qnext.blobs import Blob
from mlx_qnext.errors import UnsupportedModelError

# What a model consists of, and nothing that runs. Folders inside a repository hold other formats.
WANTED = ["*.safetensors", "*.json", "*.jinja", "merges.txt", "LICENSE"]
UNWANTED = ["*/*"]

_DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")


@dataclass(frozen=True)
class Listing:
    """A repository at one commit.

    Attributes:
        names: its files, those in folders left out.
        blobs: where the cache keeps those that a model consists of, by name; a file is missing here that the hub lists
            without a size or a digest.
    """

    repo: str
    commit: str
    names: frozenset[str]
    blobs: Mapping[str, Blob]

    @property
    def weights(self) -> list[Blob]:
        """The safetensors files."""
        return [blob for name, blob in self.blobs.items() if is_weight(name)]

    @property
    def snapshot(self) -> Path:
        """Where the cache links this commit's files."""
        return cache_folder(self.repo) / "snapshots" / self.commit

    def check_format(self) -> None:
        """Returns where there are weights that can be loaded.

        Raises:
            UnsupportedModelError: there are none.
        """
        if not any(is_weight(name) for name in self.names):
            raise UnsupportedModelError(
                f"{self.repo} holds no safetensors files, and only those are loaded: choose another repository."
            )


def list_repository(repo: str, revision: str | None) -> Listing:
    """What `repo` holds at `revision` (default: main), as the hub says. The client's own exceptions pass."""
    info = HfApi().model_info(repo, revision=revision or constants.DEFAULT_REVISION, files_metadata=True)
    commit = info.sha or revision or constants.DEFAULT_REVISION
    files = {file.rfilename: file for file in info.siblings or [] if "/" not in file.rfilename}
    blobs = {name: _blob(repo, commit, file) for name, file in files.items() if is_wanted(name)}
    found = {name: blob for name, blob in blobs.items() if blob is not None}
    return Listing(repo, commit, frozenset(files), found)


def list_snapshot(repo: str, folder: Path) -> Listing:
    """What a snapshot folder of the cache holds."""
    files = {path.name: path.resolve() for path in folder.iterdir() if path.is_file()}
    blobs = {
        name: Blob("", path.name, path.stat().st_size, path, lock=None)
        for name, path in files.items()
        if is_wanted(name)
    }
    return Listing(repo, folder.name, frozenset(files), blobs)


def cache_folder(repo: str) -> Path:
    """The repository's own folder in the client's cache."""
    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"))


def is_weight(name: str) -> bool:
    """Whether the file called so, in a repository's top folder, holds weights."""
    return name.endswith(".safetensors")


def is_wanted(name: str) -> bool:
    """Whether the file called so, in a repository's top folder, is one that a model consists of."""
    return any(fnmatch(name, pattern) for pattern in WANTED)


def _blob(repo: str, commit: str, file: RepoSibling) -> Blob | None:
    digest, nbytes = (file.lfs.sha256, file.lfs.size) if file.lfs else (file.blob_id, file.size)
    if digest is None or nbytes is None or not _DIGEST.fullmatch(digest):
        return None
    url = hf_hub_url(repo, file.rfilename, revision=commit)
    return Blob.in_cache(cache_folder(repo), url, digest, nbytes)
