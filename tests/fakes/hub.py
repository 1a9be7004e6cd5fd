"""A hub on 127.0.0.1: the few endpoints that a download asks, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http

COMMIT = "c" * 40
TOKEN = "hf_SecretSecretSecretSecretSecretSec"


@dataclass
class FakeHub:
    """Serves `repos[repo][file]`; weights go as LFS files, as on the real hub.

    Attributes:
        status: answer everything with this status. error_code: the hub's own word for it.
        cut_after: end each download of a weight file after so many bytes, as a broken connection does.
        cuts: likewise for the files named, each after so many bytes of its own.
        fail_after_cut: answer everything with 503 from the first broken connection on.
        damaged: files that are sent with their last byte changed.
        ignore_ranges: answer requests for a range with the whole file.
        requests: (method, path) of everything asked. ranges: the Range header of each download, by file.
        sent_bytes: how much of each file was sent.
        tokens: how often each Authorization header came.
    """

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    status: int = 200
    error_code: str | None = None
    cut_after: int | None = None
    cuts: dict[str, int] = field(default_factory=dict)
    fail_after_cut: bool = False
    damaged: set[str] = field(default_factory=set)
    ignore_ranges: bool = False
    requests: list[tuple[str, str]] = field(default_factory=list)
    ranges: dict[str, list[str | None]] = field(default_factory=dict)
    sent_bytes: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def downloads(self) -> list[str]:
        """The files whose content was asked for."""
        return [
            path.rsplit("/", 1)[1]
            for method, path in self.requests
            if method == "GET" and "/resolve/" in path
        ]


@contextmanager
def serving(repos: dict[str, dict[str, bytes]], cache: Path) -> Iterator[FakeHub]:
    """A hub that holds `repos`, and this process's client knows no other: with a cache and a token, and without waiting
    between its attempts."""
    with FakeHub(repos) as fake, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", fake.endpoint)
        template = fake.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        # What a broken connection has sent is kept chunk by chunk, and these files are small.
        patch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
        patch.setenv("HF_TOKEN", TOKEN)
        for module in (_http, file_download):
            patch.setattr(module.time, "sleep", lambda _: None)
        yield fake


class _Server(ThreadingHTTPServer):
    hub: FakeHub

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    @property
    def _hub(self) -> FakeHub:
        return self.server.hub

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self._hub.requests.append((self.command, path))
        self._hub.tokens[self.headers.get("Authorization", "")] += 1
        if self._hub.status != 200:
            self._refuse(self._hub.status, self._hub.error_code)
        elif path.startswith("api/models/"):
            self._describe(path.removeprefix("api/models/").split("/"))
        else:
            self._serve(path.split("/"))

    def _describe(self, parts: list[str]) -> None:
        repo, kind, revision = "/".join(parts[:2]), parts[2], "/".join(parts[3:])
        files = self._hub.repos.get(repo)
        if files is None:
            self._refuse(404, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif kind == "revision":
            siblings = [{"rfilename": name, **_blob(name, content)} for name, content in files.items()]
            self._send_json({"id": repo, "sha": COMMIT, "siblings": siblings})
        else:
            self._send_json(
                [{"type": "file", "path": name, **_blob(name, content)} for name, content in files.items()]
            )

    def _serve(self, parts: list[str]) -> None:
        repo, name = "/".join(parts[:2]), "/".join(parts[4:])
        content = self._hub.repos.get(repo, {}).get(name)
        if content is None:
            self._refuse(404, "EntryNotFound")
            return
        wanted = None if self._hub.ignore_ranges else self.headers.get("Range")
        start, end = _span(wanted, len(content))
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{_etag(name, content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(end - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self._hub.ranges.setdefault(name, []).append(self.headers.get("Range"))
            if name in self._hub.damaged:
                content = content[:-1] + bytes([content[-1] ^ 1])
            self._send_content(name, content[start:end])

    def _send_content(self, name: str, content: bytes) -> None:
        cut = self._hub.cuts.get(name, self._hub.cut_after if _is_lfs(name) else None)
        if cut is not None and len(content) > cut:
            content = content[:cut]
            self.close_connection = True
            self._hub.status = 503 if self._hub.fail_after_cut else 200
        self._hub.sent_bytes[name] += len(content)
        self.wfile.write(content)

    def _send_json(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, status: int, error_code: str | None) -> None:
        self.send_response(status)
        if error_code:
            self.send_header("X-Error-Code", error_code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _span(wanted: str | None, nbytes: int) -> tuple[int, int]:
    """The bytes that a Range header asks for."""
    if wanted is None:
        return 0, nbytes
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    return int(first), min(int(last) + 1, nbytes) if last else nbytes


def _is_lfs(name: str) -> bool:
    return name.endswith(".safetensors")


def _etag(name: str, content: bytes) -> str:
    if _is_lfs(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _blob(name: str, content: bytes) -> dict:
    described = {"size": len(content), "blobId": _etag(name, content), "oid": _etag(name, content)}
    if _is_lfs(name):
        digest = hashlib.sha256(content).hexdigest()
        described["lfs"] = {"sha256": digest, "oid": digest, "size": len(content), "pointerSize": 130}
    return described
