"""A part of a file on the hub, by a request for just these bytes."""

from __future__ import annotations

from io import BytesIO

from huggingface_hub.file_download import http_get

from mlx_qnext.blobs import Blob, plain_headers
from mlx_qnext.errors import HubError
from mlx_qnext.quiet_client import SilentBar


def read_range(blob: Blob, start: int, end: int) -> bytes:
    """Bytes [start, end) of the file, from the hub, or from its place where it lies there whole.

    What comes from the hub is of the right length and not checked otherwise: digests are of whole files.

    Raises:
        HubError: the server knows no ranges. The client's own exceptions pass.
    """
    if blob.path.exists():
        with blob.path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)
    part = _Part(blob, end - start)
    # `resume_size` tells the client where these bytes begin, so that it notices an answer that begins elsewhere.
    http_get(
        blob.url,
        part,
        resume_size=start,
        headers=plain_headers() | {"Range": f"bytes=0-{end - 1}"},
        expected_size=end,
        tqdm_class=SilentBar,
    )
    return part.getvalue()


class _Part(BytesIO):
    """Takes so many bytes and hangs up on a server that sends others, which might be a whole file of gigabytes."""

    def __init__(self, blob: Blob, nbytes: int) -> None:
        super().__init__()
        self._refusal = HubError(
            f"{blob.name} was sent whole where a part was asked for: check HF_ENDPOINT, or the proxy in between."
        )
        self._nbytes = nbytes

    def write(self, chunk: bytes, /) -> int:  # type: ignore[override]
        if self.tell() + len(chunk) > self._nbytes:
            raise self._refusal
        return super().write(chunk)

    def truncate(self, *_: object) -> int:
        """What the client does before it starts over from the file's first byte."""
        raise self._refusal
