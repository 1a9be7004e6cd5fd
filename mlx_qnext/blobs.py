"""A repository's files fetched over several connections, each resumed where it stopped and checked when it is whole."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers

from mlx_qnext.errors import HubError

CONNECTIONS = 4

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all, from the downloads' threads, one at a time."""


@dataclass(frozen=True)
class Blob:
    """A file as the hub describes it, and the place for it.

    Attributes:
        digest: the SHA-256 of a file in large-file storage, and of any other the SHA-1 that git calls it by.
        path: where the whole file lies. lock: held while it is fetched, where others may fetch it too.
    """

    url: str
    digest: str
    nbytes: int
    path: Path
    lock: Path | None

    @classmethod
    def in_cache(cls, folder: Path, url: str, digest: str, nbytes: int) -> Blob:
        """Where the client looks for it, under the client's own lock; `folder` is its repository's in the cache."""
        lock = folder.parent / ".locks" / folder.name / f"{digest}.lock"
        return cls(url, digest, nbytes, folder / "blobs" / digest, lock)

    def at(self, path: Path) -> Blob:
        """The same file at `path`, in a folder that no one else writes to."""
        return replace(self, path=path, lock=None)

    @property
    def name(self) -> str:
        """What its repository calls it."""
        return unquote(self.url.rsplit("/", 1)[-1])

    @property
    def partial(self) -> Path:
        """Where an interrupted download waits."""
        return self.path.with_name(f"{self.path.name}.incomplete")

    @property
    def present_bytes(self) -> int:
        """Bytes that need not be fetched again; a partial file longer than the whole counts as nothing."""
        found = self.path if self.path.exists() else self.partial
        size = found.stat().st_size if found.exists() else 0
        return size if size <= self.nbytes else 0

    def matches(self, path: Path) -> bool:
        """Whether `path` holds exactly this file's bytes."""
        # An SHA-256 is written in 64 digits.
        algorithm = hashlib.sha256() if len(self.digest) == 64 else hashlib.sha1(b"blob %d\0" % self.nbytes)
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: algorithm).hexdigest() == self.digest


def fetch_all(blobs: Sequence[Blob], on_progress: Progress) -> None:
    """Every blob is whole and in its place. On a failure or an interruption the partial files stay, and the other
    connections end at their next chunk.

    Raises:
        HubError: a file arrived damaged. The client's own exceptions pass.
    """
    meter = _Meter(sum(blob.present_bytes for blob in blobs), sum(blob.nbytes for blob in blobs), on_progress)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        fetches = [pool.submit(_fetch, blob, meter) for blob in blobs]
        try:
            for fetch in as_completed(fetches):
                fetch.result()
        except BaseException:
            meter.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch(blob: Blob, meter: _Meter) -> None:
    for folder in (blob.path.parent, *([blob.lock.parent] if blob.lock else [])):
        folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(blob.lock) if blob.lock else nullcontext():
        if blob.path.exists():
            return
        start = blob.present_bytes
        with blob.partial.open("ab") as file:
            file.truncate(start)
            http_get(
                blob.url,
                file,
                resume_size=start,
                headers=plain_headers(),
                expected_size=blob.nbytes,
                tqdm_class=partial(_Bar, meter, start),  # type: ignore[arg-type]
            )
        _check_digest(blob)
        blob.partial.rename(blob.path)


def plain_headers() -> dict[str, str]:
    """The client's headers of a request, token included, for bytes as they are: a compressed file has no ranges."""
    return build_hf_headers() | {"Accept-Encoding": "identity"}


def _check_digest(blob: Blob) -> None:
    if not blob.matches(blob.partial):
        blob.partial.unlink()
        raise HubError(
            f"{blob.name} arrived damaged and was removed: run the command again to fetch it anew."
        )


class _Meter:
    """Bytes of all connections together; once stopped, it ends the others at their next chunk."""

    def __init__(self, done_bytes: int, total_bytes: int, on_progress: Progress) -> None:
        self._done_bytes = done_bytes
        self._total_bytes = total_bytes
        self._on_progress = on_progress
        self._stopped = False
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            if self._stopped:
                raise HubError("The download was stopped: run the command again to resume it.")
            self._done_bytes += count
            self._on_progress(self._done_bytes, self._total_bytes)

    def stop(self) -> None:
        self._stopped = True


class _Bar:
    """One file's progress bar, as the client drives it: it draws nothing and moves the meter."""

    def __init__(self, meter: _Meter, start: int, *, initial: int = 0, **_: Any) -> None:
        self._meter = meter
        # A server that ignores the requested range sends the file from its beginning.
        if initial != start:
            meter.advance(initial - start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int = 1) -> None:
        self._meter.advance(count)
