"""A hub repository → its folder in the cache that every Hugging Face tool shares, resumable.

`huggingface_hub` keeps what it has finished, and throws away a file that was interrupted. Weights come in files
of several gigabytes, so `blobs` fetches them first, into the client's own store, and resumes them. The client
then finds them in place, fetches the small files, and builds the snapshot. It is the client, too, that honours
HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, snapshot_download

from mlx_qnext.blobs import Progress, fetch_all
from mlx_qnext.config import ModelConfig
from mlx_qnext.errors import HubError, QnextError
from mlx_qnext.hub_errors import hub_errors
from mlx_qnext.json_fields import read_json_object
from mlx_qnext.listing import UNWANTED, WANTED, Listing, cache_folder, is_weight, list_repository
from mlx_qnext.quiet_client import SilentBar, quiet_client


def download(repo: str, revision: str | None, on_progress: Progress | None = None) -> Path:
    """The snapshot folder of `repo` at `revision` (default: main), complete. What is cached is not fetched again,
    and serves alone while the hub cannot be asked.

    Raises:
        ModelNotFoundError: no such repository or revision. HubError: the hub or the disk refused or failed.
        UnsupportedModelError, CheckpointError: it holds no Qwen3-Next model in safetensors; nothing was fetched.
    """
    with quiet_client():
        try:
            with hub_errors(repo):
                listing = list_repository(repo, revision)
        except QnextError:
            cached = cached_snapshot(repo, revision)
            if cached is None:
                raise
            return cached
        with hub_errors(repo):
            _complete_blobs(listing, on_progress or _ignore)
            return complete_snapshot(listing, revision)


def cached_snapshot(repo: str, revision: str | None) -> Path | None:
    """The snapshot folder that an earlier download of `repo` at `revision` completed, or `None`."""
    try:
        folder = Path(_snapshot(repo, revision, local_files_only=True))
    except (OSError, ValueError):
        return None
    # Other tools leave folders with the small files alone.
    return folder if any(is_weight(path.name) for path in folder.iterdir()) else None


def complete_snapshot(listing: Listing, revision: str | None) -> Path:
    """The snapshot folder of that commit, complete; `revision` leads to it from now on. What is not cached is
    fetched. The client's own exceptions pass."""
    # Asked for the commit: a branch may have moved since it was listed.
    folder = Path(_snapshot(listing.repo, listing.commit))
    name = revision or constants.DEFAULT_REVISION
    if name != listing.commit:
        _lead(cache_folder(listing.repo) / "refs" / name, listing.commit)
    return folder


def _lead(reference: Path, commit: str) -> None:
    """The cache's `reference` leads to `commit`, and nobody reads it half-written."""
    # One that leads there already is let be: the cache of a model that is complete may be read-only.
    if reference.exists() and reference.read_text(encoding="utf-8") == commit:
        return
    reference.parent.mkdir(parents=True, exist_ok=True)
    written = reference.with_name(f"{reference.name}.{uuid.uuid4().hex}.tmp")
    written.write_text(commit, encoding="utf-8")
    written.replace(reference)


def _snapshot(repo: str, revision: str | None, *, local_files_only: bool = False) -> str:
    return snapshot_download(
        repo,
        revision=revision,
        allow_patterns=WANTED,
        ignore_patterns=UNWANTED,
        local_files_only=local_files_only,
        tqdm_class=SilentBar,
    )


def _complete_blobs(listing: Listing, on_progress: Progress) -> None:
    """Every weight file is in the cache, or nothing was fetched because it could not be used."""
    listing.check_format()
    weights = listing.weights
    missing = [blob for blob in weights if not blob.path.exists()]
    if missing:
        _check_architecture(listing)
        check_disk(listing.repo, sum(blob.nbytes - blob.present_bytes for blob in missing))
        fetch_all(weights, on_progress)


def _check_architecture(listing: Listing) -> None:
    """Returns where the configuration, if there is one, is that of a model this program runs: asked before
    gigabytes are fetched."""
    if "config.json" in listing.names:
        path = hf_hub_download(listing.repo, "config.json", revision=listing.commit)
        ModelConfig.from_dict(read_json_object(Path(path)), f"config.json of {listing.repo}")


def check_disk(repo: str, needed_bytes: int) -> None:
    """Returns where the cache's disk has room.

    Raises:
        HubError: it has not.
    """
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free_bytes = shutil.disk_usage(existing).free
    if needed_bytes > free_bytes:
        raise HubError(
            f"{repo} needs {needed_bytes / 1e9:.1f} GB more in {cache}, and {free_bytes / 1e9:.1f} GB are free: "
            "free some space, or set HF_HOME to a folder on a larger disk."
        )


def _ignore(done_bytes: int, total_bytes: int) -> None:
    """For callers who want no progress."""
