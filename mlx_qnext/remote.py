"""A checkpoint on the hub: what it holds is known from the beginnings of its files, and each file comes when asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlx_qnext.blobs import Blob, Progress, fetch_all
from mlx_qnext.checkpoint import INDEX_FILE, Checkpoint
from mlx_qnext.config import ModelConfig
from mlx_qnext.download import cached_snapshot, check_disk, complete_snapshot
from mlx_qnext.errors import CheckpointError, HubError, QnextError
from mlx_qnext.hub_errors import hub_errors
from mlx_qnext.json_fields import MAX_JSON_BYTES, REMEDY, parse_json_object, shown
from mlx_qnext.listing import Listing, is_wanted, is_weight, list_repository, list_snapshot
from mlx_qnext.quiet_client import quiet_client
from mlx_qnext.ranges import read_range
from mlx_qnext.safetensors_header import LENGTH_BYTES, Header, TensorInfo, header_length, parse_header

# Asked for at first: holds the header of any shard of the published bf16 model (about 230 kB).
FIRST_BYTES = 1 << 18
HEADERS_AT_ONCE = 8

_DESCRIPTIONS = ("config.json", INDEX_FILE)


@dataclass(frozen=True, eq=False)
class RemoteCheckpoint:
    """A repository at one commit, known by its headers; none of its weights were fetched.

    Its methods may be called from several threads at once, for different files.

    Attributes:
        checkpoint: as if its files lay in the folder it was opened with, where the weights come by `fetch`.
        revision: what was asked for and is `commit` now.
    """

    checkpoint: Checkpoint
    revision: str | None
    listing: Listing

    @classmethod
    def open(cls, repo: str, revision: str | None, folder: Path) -> RemoteCheckpoint:
        """The repository at `revision` (default: main). `folder` is the caller's alone and holds all of its files
        but the weights afterwards: those in the cache as copies.

        While the hub cannot be asked, a complete snapshot in the cache serves.

        Raises:
            ModelNotFoundError: no such repository or revision. HubError: the hub or the disk refused or failed.
            UnsupportedModelError, CheckpointError: it holds no Qwen3-Next model in safetensors, or its files
                contradict each other.
        """
        remote = cls.peek(repo, revision, folder)
        others = [name for name in remote.listing.names if is_wanted(name) and not is_weight(name)]
        with _asking(repo, folder):
            _bring(remote.listing, others, folder)
        return remote

    @classmethod
    def peek(
        cls,
        repo: str,
        revision: str | None,
        folder: Path,
        on_header: Callable[[int, int], None] | None = None,
    ) -> RemoteCheckpoint:
        """As `open`, and `folder` holds the configuration and the index alone.

        `on_header(done, total)` is called with the number of files whose headers are read.
        """
        listing = _list(repo, revision)
        with _asking(repo, folder):
            listing.check_format()
            _bring(listing, [name for name in _DESCRIPTIONS if name in listing.names], folder)
            files = _HubFiles(listing, folder, on_header or _ignore)
            # Known before any header is asked for.
            ModelConfig.from_dict(files.read_json("config.json"), f"config.json of {repo}")
            return cls(Checkpoint.read(files).in_folder(folder), revision, listing)

    @property
    def repo(self) -> str:
        """`org/name`."""
        return self.listing.repo

    @property
    def commit(self) -> str:
        """What all of this is of."""
        return self.listing.commit

    @property
    def file_bytes(self) -> Mapping[str, int]:
        """The size of each weight file."""
        return {name: self._blob(name).nbytes for name in self.checkpoint.metadata}

    @property
    def snapshot(self) -> Path | None:
        """The folder in the cache that holds this commit, or `None` where not all weights are there."""
        folder = self.listing.snapshot
        return folder if all((folder / name).exists() for name in self.checkpoint.metadata) else None

    def is_cached(self, name: str) -> bool:
        """Whether the weight file lies in the cache, whole."""
        return self._blob(name).path.exists()

    def read(self, tensor: TensorInfo) -> bytes:
        """The tensor's bytes, from the hub or the cache; those from the hub are checked for their number alone.

        Raises:
            HubError: the hub refused or failed.
        """
        with _asking(self.repo, self.checkpoint.folder):
            return read_range(self._blob(tensor.file.name), tensor.start, tensor.end)

    def fetch(self, name: str, on_progress: Progress) -> Path:
        """The weight file, whole and checked: the cache's own, which is the cache's to keep, or else one in the folder,
        resumed where an earlier call stopped and left `name.incomplete`.

        `on_progress(done_bytes, total_bytes)` is called as bytes arrive, and not at all where none need to.

        Raises:
            HubError: the hub or the disk refused or failed, or the file arrived damaged and was removed.
        """
        cached = self._blob(name)
        if cached.path.exists():
            return cached.path
        blob = cached.at(self.checkpoint.folder / name)
        with _asking(self.repo, self.checkpoint.folder):
            _fetch([blob], on_progress)
        return blob.path

    def fetch_to_cache(self, name: str, on_progress: Progress) -> Path:
        """As `fetch`, and the file is in the cache for every tool to find; `complete_snapshot` links it."""
        blob = self._blob(name)
        with _asking(self.repo):
            if not blob.path.exists():
                check_disk(self.repo, blob.nbytes - blob.present_bytes)
                fetch_all([blob], on_progress)
        return blob.path

    def complete_snapshot(self) -> None:
        """The cache holds this commit's snapshot, and `revision` leads to it. What is not cached is fetched.

        Raises:
            HubError: the hub or the disk refused or failed.
        """
        with _asking(self.repo):
            complete_snapshot(self.listing, self.revision)

    def _blob(self, name: str) -> Blob:
        return self.listing.blobs[name]


@contextmanager
def _asking(repo: str, folder: Path | None = None) -> Iterator[None]:
    with quiet_client(), hub_errors(repo, folder):
        yield


def _list(repo: str, revision: str | None) -> Listing:
    """What the hub says, or what the cache holds while the hub cannot be asked."""
    try:
        with _asking(repo):
            return list_repository(repo, revision)
    except QnextError:
        cached = cached_snapshot(repo, revision)
        if cached is None:
            raise
        return list_snapshot(repo, cached)


def _bring(listing: Listing, names: Iterable[str], folder: Path) -> None:
    """The small files named lie in `folder`, each one whole."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted: list[Blob] = []
    for name in names:
        cached = _listed(listing, name)
        if cached.nbytes > MAX_JSON_BYTES:
            raise CheckpointError(
                f"{listing.repo}/{name} has {cached.nbytes} bytes, expected at most {MAX_JSON_BYTES}: {REMEDY}."
            )
        blob = cached.at(folder / name)
        if cached.path.exists():
            shutil.copyfile(cached.path, blob.partial)
            blob.partial.replace(blob.path)
        else:
            wanted.append(blob)
    _fetch(wanted, _ignore)


def _fetch(blobs: Sequence[Blob], on_progress: Progress) -> None:
    for blob in blobs:
        # What an earlier run left may be of another commit.
        if blob.path.exists() and not blob.matches(blob.path):
            blob.path.unlink()
    fetch_all(blobs, on_progress)


def _listed(listing: Listing, name: str) -> Blob:
    blob = listing.blobs.get(name)
    if blob is None:
        raise HubError(
            f"The hub lists {shown(name)} of {listing.repo} without its size and digest: run the command again later, "
            "or check HF_ENDPOINT."
        )
    return blob


@dataclass(frozen=True)
class _HubFiles:
    """The files of a repository; those that describe it lie in `local`."""

    listing: Listing
    local: Path
    on_header: Callable[[int, int], None]

    @property
    def folder(self) -> Path:
        return Path(self.listing.repo)

    @property
    def names(self) -> frozenset[str]:
        return self.listing.names

    def read_json(self, name: str) -> dict[str, object]:
        if name not in self.names:
            raise CheckpointError(f"{self.listing.repo} has no {name}: {REMEDY}.")
        return parse_json_object((self.local / name).read_bytes(), str(self.folder / name))

    def read_headers(self, names: Sequence[str]) -> Mapping[str, Header]:
        blobs = [_listed(self.listing, name) for name in names]
        headers: dict[str, Header] = {}
        with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
            files = [self.folder / name for name in names]
            for name, header in zip(names, pool.map(_read_header, blobs, files), strict=True):
                headers[name] = header
                self.on_header(len(headers), len(names))
        return headers


def _read_header(blob: Blob, file: Path) -> Header:
    size = blob.path.stat().st_size if blob.path.exists() else blob.nbytes
    content = read_range(blob, 0, min(FIRST_BYTES, size))
    end = LENGTH_BYTES + header_length(content[:LENGTH_BYTES], file, size)
    if end > len(content):
        content += read_range(blob, len(content), end)
    return parse_header(content[LENGTH_BYTES:end], file, size)


def _ignore(done: int, total: int) -> None:
    """For those who want no progress."""
