"""What `qnext inspect` shows of a model on the hub, without downloading it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from builders import write_hf_checkpoint
from fakes.hub import COMMIT, serving
from huggingface_hub import constants

from cli.main import main
from mlx_qnext import hub, remote
from mlx_qnext.errors import CheckpointError

REPO = "qwen/tiny"
SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    return write_hf_checkpoint(tmp_path_factory.mktemp("published"), shards=3)


@pytest.fixture
def server(published, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_BYTES", 1000)
    with serving(
        {REPO: {path.name: path.read_bytes() for path in published.iterdir()}}, tmp_path / "cache"
    ) as fake:
        yield fake


def inspect(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["qnext", "inspect", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    code = left.value.code
    assert isinstance(code, int)
    return code, *capsys.readouterr()


def test_a_repository_is_shown_from_its_headers_and_leaves_nothing(
    server, published, tmp_path, monkeypatch, capsys
):
    local = inspect(monkeypatch, capsys, str(published), "--json")
    there = inspect(monkeypatch, capsys, REPO, "--json")
    assert there[0] == 0
    assert there[2] == ""
    address = {"path": f"hf://{REPO}@{COMMIT}"}
    assert json.loads(there[1]) == json.loads(local[1]) | address
    assert not Path(constants.HF_HUB_CACHE).exists()
    assert server.sent_bytes[SHARD] < 50_000
    assert inspect(monkeypatch, capsys, REPO)[1].startswith(f"hf://{REPO}@{COMMIT}\n")


def test_a_cached_one_is_shown_by_its_folder(server, monkeypatch, capsys):
    snapshot = hub.resolve(REPO)
    server.status = 503
    code, out, _ = inspect(monkeypatch, capsys, REPO, "--json")
    assert (code, json.loads(out)["path"]) == (0, str(snapshot))


def test_what_is_wrong_there_is_one_line(server, monkeypatch, capsys):
    server.repos[REPO][SHARD] = server.repos[REPO][SHARD][:-1]
    code, out, err = inspect(monkeypatch, capsys, REPO)
    assert (code, out) == (CheckpointError.exit_code, "")
    assert err.startswith(f"qnext: {REPO}/{SHARD} is cut short")
    assert err.count("\n") == 1
