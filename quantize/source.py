"""Where a conversion reads from: a folder, or a hub repository whose shards come and go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from huggingface_hub import constants
from numpy.typing import NDArray

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.disk import on_one_disk
from mlx_qnext.download import check_disk
from mlx_qnext.remote import RemoteCheckpoint
from mlx_qnext.safetensors_header import TensorInfo
from quantize.elements import read_bytes

Files = Generator[tuple[str, Path]]
FetchProgress = Callable[[int], None]
"""Called with the bytes that arrived since the last call, from the fetching threads."""

SHARDS_AT_ONCE = 2


class Source(Protocol):
    """A checkpoint whose weight files are asked for one after another."""

    @property
    def checkpoint(self) -> Checkpoint:
        """Known by its headers."""
        ...

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def identity(self) -> Mapping[str, object]:
        """What distinguishes its bytes from any other's, in JSON values."""
        ...

    @property
    def weights(self) -> Path | None:
        """The folder that holds all weights once they have passed, `None` where they do not stay."""
        ...

    def room_bytes(self, files: Sequence[str]) -> int:
        """What these files take on the disk at once, beside the result."""
        ...

    def read_apart(self, tensor: TensorInfo) -> NDArray[np.uint8]:
        """The whole tensor's bytes, whether its file is here or not."""
        ...

    def files(self, names: Sequence[str], on_fetch: FetchProgress) -> Files:
        """These files, each with the path that it can be read at until the next one is asked for."""
        ...


class FolderSource:
    """A checkpoint in a folder; nothing is written there."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.name = checkpoint.folder.resolve().name

    @property
    def identity(self) -> Mapping[str, object]:
        """Each file's name, size and time of change."""
        files = sorted({tensor.file for tensor in self.checkpoint.tensors.values()})
        return {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}

    @property
    def weights(self) -> Path | None:
        """The folder."""
        return self.checkpoint.folder

    def room_bytes(self, files: Sequence[str]) -> int:  # noqa: ARG002
        """Nothing: they are there."""
        return 0

    def read_apart(self, tensor: TensorInfo) -> NDArray[np.uint8]:
        """The whole tensor's bytes."""
        return read_bytes(tensor.file, tensor, 0, tensor.nbytes)

    def files(self, names: Sequence[str], on_fetch: FetchProgress) -> Files:  # noqa: ARG002
        """The files named."""
        yield from ((name, self.checkpoint.folder / name) for name in names)


class HubSource:
    """A repository on the hub. Two shards at most are on the disk; each is removed once its successor is asked for.

    With `keep`, shards go to the hub client's cache and stay there.
    """

    def __init__(self, remote: RemoteCheckpoint, *, keep: bool) -> None:
        self._remote, self._keep = remote, keep
        self.checkpoint = remote.checkpoint
        self.name = f"{remote.repo}@{remote.commit[:12]}"

    @property
    def identity(self) -> Mapping[str, object]:
        """The commit, which fixes every byte."""
        return {"repo": self._remote.repo, "commit": self._remote.commit}

    @property
    def weights(self) -> Path | None:
        """The snapshot in the hub client's cache."""
        return self._remote.listing.snapshot if self._keep else self._remote.snapshot

    def room_bytes(self, files: Sequence[str]) -> int:
        """What the files take at once beside the result: the two largest that are still to come, or all where they stay.

        Raises:
            HubError: they stay, and the cache's disk has no room for them.
        """
        sizes = sorted(self._remote.file_bytes[name] for name in files if not self._remote.is_cached(name))
        if not self._keep:
            return sum(sizes[-SHARDS_AT_ONCE:])
        check_disk(self._remote.repo, sum(sizes))
        return sum(sizes) if on_one_disk(Path(constants.HF_HUB_CACHE), self.checkpoint.folder) else 0

    def read_apart(self, tensor: TensorInfo) -> NDArray[np.uint8]:
        """The whole tensor's bytes, by a request of their own: its file need not be here."""
        return np.frombuffer(self._remote.read(tensor), np.uint8)

    def files(self, names: Sequence[str], on_fetch: FetchProgress) -> Files:
        """The files named, each while the next one is being fetched.

        Raises:
            HubError: the hub refused or failed; what arrived stays, and is not fetched again.
        """
        with _fetching() as (pool, stopped):
            coming: list[Future[Path]] = []
            for number, name in enumerate(names):
                for ahead in names[number + len(coming) : number + SHARDS_AT_ONCE]:
                    coming.append(pool.submit(self._fetch, ahead, on_fetch, stopped))
                path = coming.pop(0).result()
                yield name, path
                self._release(path)
        if self._keep:
            self._remote.complete_snapshot()

    def _fetch(self, name: str, on_fetch: FetchProgress, stopped: threading.Event) -> Path:
        arrived = 0

        def advance(done_bytes: int, _total_bytes: int) -> None:
            nonlocal arrived
            if stopped.is_set():
                raise _StoppedError
            on_fetch(done_bytes - arrived)
            arrived = done_bytes

        fetch = self._remote.fetch_to_cache if self._keep else self._remote.fetch
        return fetch(name, advance)

    def _release(self, path: Path) -> None:
        """Remove a shard that was fetched for this conversion; what lies in the hub client's cache is not ours."""
        if path.parent == self.checkpoint.folder:
            path.unlink(missing_ok=True)


class _StoppedError(Exception):
    """Ends a fetch whose conversion ended."""


@contextmanager
def _fetching() -> Iterator[tuple[ThreadPoolExecutor, threading.Event]]:
    stopped = threading.Event()
    pool = ThreadPoolExecutor(SHARDS_AT_ONCE, thread_name_prefix="fetch")
    try:
        yield pool, stopped
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)
