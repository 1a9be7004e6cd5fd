"""mlx-lm's server as a process of its own on the loopback, and a client that streams from it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import mlx.core as mx
from dialogue import Message, Reply

from mlx_qnext.hub import embedded_model

HOST = "127.0.0.1"
STARTS_WITHIN_S = 120


@dataclass(frozen=True)
class MlxLmServer:
    """A server that is up, and how requests to it look.

    Attributes:
        extra: fields of every request beyond messages, limit and temperature.
    """

    port: int
    limit: int
    extra: dict[str, Any]

    def answer(self, messages: Sequence[Message]) -> Reply:
        """One streamed request; the time to the first text is what a client sees."""
        start = perf_counter()
        first: float | None = None
        text, thinking, usage = "", "", {}
        for event in self._stream(messages):
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                said, thought = (choice["delta"].get(name) or "" for name in ("content", "reasoning"))
                if first is None and (said + thought).strip():
                    first = perf_counter()
                text, thinking = text + said, thinking + thought
        if first is None:
            raise RuntimeError("mlx-lm's server ended a reply without any text")
        return Reply(
            text=text.lstrip("\n"),
            thinking=thinking.strip("\n"),
            completion_tokens=usage["completion_tokens"],
            prompt_tokens=usage["prompt_tokens"],
            cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
            text_ms=(first - start) * 1e3,
        )

    def _stream(self, messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
        body = {
            "messages": list(messages),
            "max_tokens": self.limit,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.extra,
        }
        connection = HTTPConnection(HOST, self.port, timeout=600)
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body))
            response = connection.getresponse()
            if response.status != 200:
                raise RuntimeError(f"mlx-lm's server says {response.status}: {response.read()!r}")
            for line in response:
                if line.startswith(b"data: {"):
                    yield json.loads(line.removeprefix(b"data: "))
        finally:
            connection.close()

    def healthy(self) -> bool:
        """Whether it answers at all, without the model."""
        connection = HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def copy_in_fp32(folder: Path) -> Path:
    """A copy of the embedded model whose bf16 tensors are written as fp32, so that mlx-lm computes in it on a CPU."""
    shutil.copytree(embedded_model(), folder)
    for file in folder.glob("*.safetensors"):
        arrays, notes = mx.load(str(file), return_metadata=True)
        assert isinstance(arrays, dict)
        assert isinstance(notes, dict)
        wide = {name: a.astype(mx.float32) if a.dtype == mx.bfloat16 else a for name, a in arrays.items()}
        mx.eval(wide)
        mx.save_safetensors(str(file), wide, notes)
    return folder


@contextmanager
def serving(folder: Path, limit: int, extra: dict[str, Any]) -> Iterator[MlxLmServer]:
    """A fresh server on `folder`, its cache empty and its model loaded and run once."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(folder), "--port", str(port)]
    settings = os.environ | {"HF_HUB_OFFLINE": "1"}
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen([*command, "--host", HOST], env=settings, stdout=log, stderr=log)
        try:
            server = MlxLmServer(port, limit, extra)
            _wait_for(server, process, folder / "server.log")
            # Shares no prefix with the conversation that another cache could continue.
            server.answer([{"role": "user", "content": "What is 47 + 85?"}])
            yield server
        finally:
            process.terminate()
            process.wait()


def _wait_for(server: MlxLmServer, process: subprocess.Popen[bytes], log: Path) -> None:
    began = perf_counter()
    while not server.healthy():
        if process.poll() is not None or perf_counter() - began > STARTS_WITHIN_S:
            raise RuntimeError(f"mlx-lm's server did not start:\n{log.read_text()[-2000:]}")
        sleep(0.1)
