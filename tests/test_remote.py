"""A repository opened without its weights, and its weight files one by one, against a hub on this machine."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fakes.hub
import pytest
from builders import TINY, write_hf_checkpoint
from fakes.hub import COMMIT, TOKEN, serving
from huggingface_hub import constants

from mlx_qnext import blobs, hub, remote, safetensors_header
from mlx_qnext import download as downloading
from mlx_qnext.checkpoint import INDEX_FILE, Checkpoint
from mlx_qnext.errors import CheckpointError, HubError, ModelNotFoundError, UnsupportedModelError
from mlx_qnext.remote import RemoteCheckpoint

REPO = "qwen/tiny"
SHARDS = [f"model-{shard:05}-of-00003.safetensors" for shard in (1, 2, 3)]
SHARD = SHARDS[1]
SMALL = {"config.json", INDEX_FILE, "tokenizer.json", "chat_template.jinja", "merges.txt"}
CUT = 150_000


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    folder = write_hf_checkpoint(tmp_path_factory.mktemp("published"), shards=3)
    for name in ("tokenizer.json", "chat_template.jinja", "merges.txt", "README.md", "modeling.py"):
        (folder / name).write_text(f"{name} as published")
    return folder


@pytest.fixture
def server(published, tmp_path, monkeypatch):
    # Headers of this size take a second request, and what is fetched beyond them shows.
    monkeypatch.setattr(remote, "FIRST_BYTES", 1000)
    files = {path.name: path.read_bytes() for path in sorted(published.iterdir())}
    with serving({REPO: files | {"original/extra.safetensors": b"x"}}, tmp_path / "cache") as fake:
        yield fake


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def opened(server, folder) -> RemoteCheckpoint:
    """With the traffic that it took forgotten."""
    checkpoint = RemoteCheckpoint.open(REPO, None, folder)
    for traffic in (server.requests, server.ranges, server.sent_bytes):
        traffic.clear()
    return checkpoint


def ignore(done: int, total: int) -> None:
    pass


def header_end(content: bytes) -> int:
    return 8 + struct.unpack("<Q", content[:8])[0]


def same(checkpoint: Checkpoint, published: Path, folder: Path) -> bool:
    local = Checkpoint.open(published)
    assert {tensor.file.parent for tensor in checkpoint.tensors.values()} == {folder}
    return vars(checkpoint) == vars(local.in_folder(folder))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class TestOpening:
    def test_it_is_the_checkpoint_that_a_folder_of_the_same_files_holds(self, opened, published, folder):
        assert same(opened.checkpoint, published, folder)
        assert (opened.repo, opened.commit) == (REPO, COMMIT)
        assert opened.file_bytes == {name: (published / name).stat().st_size for name in SHARDS}

    def test_of_the_weights_only_the_headers_are_sent(self, server, published, folder):
        RemoteCheckpoint.open(REPO, None, folder)
        expected = {name: header_end((published / name).read_bytes()) for name in SHARDS}
        assert {name: server.sent_bytes[name] for name in SHARDS} == expected
        assert set(server.tokens) == {f"Bearer {TOKEN}"}

    def test_a_header_that_the_first_request_holds_takes_one(self, server, folder, monkeypatch):
        monkeypatch.setattr(remote, "FIRST_BYTES", 1 << 18)
        RemoteCheckpoint.open(REPO, None, folder)
        assert [server.ranges[name] for name in SHARDS] == [["bytes=0-262143"]] * 3

    def test_the_folder_holds_everything_but_the_weights(self, opened, published, folder):
        assert names_in(folder) == SMALL
        assert all((folder / name).read_bytes() == (published / name).read_bytes() for name in SMALL)
        assert not Path(constants.HF_HUB_CACHE).exists()

    def test_a_glance_leaves_the_configuration_and_the_index(self, server, published, folder):
        seen = []
        glance = RemoteCheckpoint.peek(REPO, None, folder, lambda *counts: seen.append(counts))
        assert same(glance.checkpoint, published, folder)
        assert names_in(folder) == {"config.json", INDEX_FILE}
        assert seen == [(1, 3), (2, 3), (3, 3)]

    def test_what_the_folder_holds_is_not_fetched_again(self, opened, server, folder):
        RemoteCheckpoint.open(REPO, None, folder)
        assert set(server.downloads()) == set(SHARDS)

    def test_what_another_commit_left_in_the_folder_is_replaced(self, server, published, folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "tokenizer.json.incomplete").write_text("of another")
        with pytest.raises(HubError, match=r"tokenizer\.json arrived damaged"):
            RemoteCheckpoint.open(REPO, None, folder)
        assert same(RemoteCheckpoint.open(REPO, None, folder).checkpoint, published, folder)

    def test_one_file_without_an_index_and_the_mtp_file_beside_it(self, server, folder, tmp_path):
        source = write_hf_checkpoint(tmp_path / "one", mtp=False)
        mtp = json.dumps({"mtp.norm.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        (source / "mtp.safetensors").write_bytes(struct.pack("<Q", len(mtp)) + mtp + bytes(4))
        server.repos["org/one"] = {path.name: path.read_bytes() for path in source.iterdir()}
        opened = RemoteCheckpoint.open("org/one", None, folder)
        assert same(opened.checkpoint, source, folder)
        assert opened.checkpoint.has_mtp

    def test_a_cached_model_is_opened_without_its_weights_being_asked_for(
        self, server, published, folder, monkeypatch
    ):
        snapshot = hub.resolve(REPO)
        server.requests.clear()
        opened = RemoteCheckpoint.open(REPO, None, folder)
        assert same(opened.checkpoint, published, folder)
        assert names_in(folder) == SMALL
        assert opened.snapshot == snapshot
        assert server.downloads() == []

    def test_a_cached_model_serves_while_the_hub_is_away(self, server, published, folder, monkeypatch):
        hub.resolve(REPO)
        server.status = 503
        online = RemoteCheckpoint.open(REPO, None, folder)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        offline = RemoteCheckpoint.open(REPO, None, folder)
        for opened in (online, offline):
            assert same(opened.checkpoint, published, folder)
            assert opened.commit == COMMIT
            assert opened.fetch(SHARD, ignore).read_bytes() == (published / SHARD).read_bytes()

    def test_connections_that_break_are_taken_up_again(self, server, published, folder, monkeypatch):
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
        server.cuts = dict.fromkeys(SHARDS, 700)
        assert same(RemoteCheckpoint.open(REPO, None, folder).checkpoint, published, folder)


def unpublish(*names: str) -> Callable[[dict[str, bytes]], None]:
    return lambda files: [files.pop(name) for name in names] and None


def republish(name: str, change: Callable[[bytes], bytes]) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.update({name: change(files[name])})


def move_tensor(content: bytes) -> bytes:
    index = json.loads(content)
    placed = index["weight_map"]["lm_head.weight"]
    index["weight_map"]["lm_head.weight"] = next(name for name in SHARDS if name != placed)
    return json.dumps(index).encode()


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "code", "kind", "said"),
        [
            (401, "RepoNotFound", ModelNotFoundError, "no model qwen/tiny, or keeps it private"),
            (404, "RepoNotFound", ModelNotFoundError, "no model qwen/tiny"),
            (404, "RevisionNotFound", ModelNotFoundError, "no such revision"),
            (403, "GatedRepo", HubError, "accept terms"),
            (429, None, HubError, "too many requests"),
            (503, None, HubError, "answered 503"),
        ],
    )
    def test_each_status_is_one_sentence(self, server, folder, status, code, kind, said):
        server.status, server.error_code = status, code
        with pytest.raises(kind, match=said):
            RemoteCheckpoint.open(REPO, None, folder)

    def test_a_hub_that_gives_up_amid_the_headers(self, server, folder):
        server.cuts, server.fail_after_cut = {SHARD: 700}, True
        with pytest.raises(HubError, match="answered 503"):
            RemoteCheckpoint.open(REPO, None, folder)

    def test_offline_without_the_model_in_the_cache(self, server, folder, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
            RemoteCheckpoint.open(REPO, None, folder)

    @pytest.mark.parametrize(
        ("spoil", "kind", "said"),
        [
            (unpublish(*SHARDS), UnsupportedModelError, "qwen/tiny holds no safetensors"),
            (unpublish("config.json"), CheckpointError, "qwen/tiny has no config.json"),
            (republish("config.json", lambda _: b"{"), CheckpointError, "qwen/tiny/config.json is not valid"),
            (unpublish(SHARD), CheckpointError, f"qwen/tiny lacks '{SHARD}', which its index names"),
            (republish(INDEX_FILE, lambda _: b"[]"), CheckpointError, f"qwen/tiny/{INDEX_FILE} holds a list"),
            (republish(INDEX_FILE, move_tensor), CheckpointError, "places 'lm_head.weight' in"),
            (republish(SHARD, lambda data: data[:-1]), CheckpointError, f"qwen/tiny/{SHARD} is cut short"),
            (republish(SHARD, lambda data: data + b"\0"), CheckpointError, "its header describes only"),
            (republish(SHARD, lambda data: data[:500]), CheckpointError, "announces a header of"),
            (republish(SHARD, lambda _: b""), CheckpointError, "has 0 bytes, too few"),
            (republish(SHARD, lambda data: data[:8] + b"[" + data[9:]), CheckpointError, "not valid JSON"),
            (
                republish(SHARD, lambda data: struct.pack("<Q", 1 << 62) + data[8:]),
                CheckpointError,
                f"qwen/tiny/{SHARD} announces a header of {1 << 62} bytes",
            ),
        ],
    )
    def test_what_a_folder_would_be_refused_for_is_refused_in_the_repositorys_name(
        self, server, folder, spoil, kind, said
    ):
        spoil(server.repos[REPO])
        with pytest.raises(kind) as caught:
            RemoteCheckpoint.open(REPO, None, folder)
        assert said in str(caught.value)
        assert str(folder) not in str(caught.value)
        assert not any((folder / name).exists() for name in SHARDS)

    def test_another_architecture_is_refused_before_its_headers_are_read(self, server, folder):
        server.repos[REPO]["config.json"] = json.dumps(TINY | {"model_type": "llama"}).encode()
        with pytest.raises(
            UnsupportedModelError, match=r"config\.json of qwen/tiny is of model_type 'llama'"
        ):
            RemoteCheckpoint.open(REPO, None, folder)
        assert not set(server.downloads()) & set(SHARDS)

    def test_a_huge_header_is_refused_without_being_read(self, server, folder, monkeypatch):
        monkeypatch.setattr(safetensors_header, "MAX_HEADER_BYTES", 2000)
        with pytest.raises(CheckpointError, match="expected at most 2000"):
            RemoteCheckpoint.open(REPO, None, folder)
        assert max(server.sent_bytes[name] for name in SHARDS) <= 1000

    def test_a_huge_description_is_refused_without_being_fetched(self, server, folder, monkeypatch):
        monkeypatch.setattr(remote, "MAX_JSON_BYTES", 10)
        with pytest.raises(CheckpointError, match=r"qwen/tiny/.* bytes, expected at most 10"):
            RemoteCheckpoint.open(REPO, None, folder)
        assert server.downloads() == []

    def test_a_server_that_ignores_ranges_is_hung_up_on(self, server, folder):
        server.ignore_ranges = True
        with pytest.raises(HubError, match="was sent whole where a part was asked for"):
            RemoteCheckpoint.open(REPO, None, folder)

    def test_files_without_digests_are_not_trusted(self, server, folder, monkeypatch):
        monkeypatch.setattr(fakes.hub, "_blob", lambda name, content: {})
        with pytest.raises(HubError, match=r"lists 'config\.json' of qwen/tiny without"):
            RemoteCheckpoint.open(REPO, None, folder)

    def test_a_damaged_small_file_is_removed(self, server, folder):
        server.damaged = {"tokenizer.json"}
        with pytest.raises(HubError, match=r"tokenizer\.json arrived damaged"):
            RemoteCheckpoint.open(REPO, None, folder)
        assert "tokenizer.json" not in {name.removesuffix(".incomplete") for name in names_in(folder)}

    def test_a_file_in_the_folders_place(self, server, folder):
        folder.write_bytes(b"")
        with pytest.raises(HubError, match="work cannot be written: check its permissions, or name another"):
            RemoteCheckpoint.open(REPO, None, folder)


class TestFetching:
    def test_a_weight_file_comes_into_the_folder(self, opened, published, folder):
        seen = []
        path = opened.fetch(SHARD, lambda *counts: seen.append(counts))
        assert path == folder / SHARD
        assert path.read_bytes() == (published / SHARD).read_bytes()
        assert names_in(folder) == SMALL | {SHARD}
        assert seen[-1] == (path.stat().st_size,) * 2
        assert not opened.is_cached(SHARD)

    def test_one_that_is_there_is_not_fetched_again_and_one_of_another_commit_is(
        self, opened, server, published
    ):
        path = opened.fetch(SHARD, ignore)
        server.requests.clear()
        assert opened.fetch(SHARD, ignore) == path
        assert server.downloads() == []
        path.write_bytes(path.read_bytes()[::-1])
        assert opened.fetch(SHARD, ignore).read_bytes() == (published / SHARD).read_bytes()

    def test_one_that_the_hub_broke_off_goes_on_where_it_stopped(self, opened, server, published, folder):
        server.cuts, server.fail_after_cut = {SHARD: CUT}, True
        with pytest.raises(HubError, match=r"answered 503 .* to resume"):
            opened.fetch(SHARD, ignore)
        assert names_in(folder) == SMALL | {f"{SHARD}.incomplete"}
        server.cuts, server.status = {}, 200
        server.ranges.clear()
        assert opened.fetch(SHARD, ignore).read_bytes() == (published / SHARD).read_bytes()
        assert server.ranges == {SHARD: [f"bytes={CUT}-"]}
        assert names_in(folder) == SMALL | {SHARD}

    def test_one_that_was_killed_amid_goes_on_where_it_stopped(self, server, published, folder, tmp_path):
        code = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from huggingface_hub import constants\n"
            "from mlx_qnext.remote import RemoteCheckpoint\n"
            "constants.DOWNLOAD_CHUNK_SIZE = 10_000\n"
            f"kill = lambda done, total: done > {CUT} and os.kill(os.getpid(), signal.SIGKILL)\n"
            f"RemoteCheckpoint.open({REPO!r}, None, Path(sys.argv[1])).fetch({SHARD!r}, kill)"
        )
        environment = os.environ | {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home")}
        killed = subprocess.run([sys.executable, "-c", code, folder], env=environment, capture_output=True)
        assert killed.returncode == -signal.SIGKILL
        kept_bytes = (folder / f"{SHARD}.incomplete").stat().st_size
        assert CUT - 20_000 < kept_bytes <= CUT
        opened = RemoteCheckpoint.open(REPO, None, folder)
        server.ranges.clear()
        assert opened.fetch(SHARD, ignore).read_bytes() == (published / SHARD).read_bytes()
        assert server.ranges == {SHARD: [f"bytes={kept_bytes}-"]}

    def test_a_damaged_one_is_refused_and_removed(self, opened, server, folder):
        server.damaged = {SHARD}
        for _ in range(2):
            with pytest.raises(HubError, match=f"{SHARD} arrived damaged and was removed"):
                opened.fetch(SHARD, ignore)
            assert names_in(folder) == SMALL
        server.damaged.clear()
        assert opened.fetch(SHARD, ignore).exists()

    def test_several_come_at_once_and_the_clients_log_is_put_back(self, opened, published):
        level = logging.getLogger("huggingface_hub").level
        with ThreadPoolExecutor(3) as pool:
            paths = list(pool.map(lambda name: opened.fetch(name, ignore), SHARDS))
        assert [path.read_bytes() for path in paths] == [(published / name).read_bytes() for name in SHARDS]
        assert logging.getLogger("huggingface_hub").level == level

    def test_a_cached_one_is_the_caches_and_stays_there(self, opened, server, folder):
        snapshot = hub.resolve(REPO)
        server.requests.clear()
        assert opened.is_cached(SHARD)
        assert opened.fetch(SHARD, ignore) == (snapshot / SHARD).resolve()
        assert server.downloads() == []
        assert names_in(folder) == SMALL

    @pytest.mark.parametrize(
        ("number", "said"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "work cannot be written")]
    )
    def test_a_disk_that_refuses(self, opened, monkeypatch, number, said):
        def refuse(*args, **kwargs):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(blobs, "http_get", refuse)
        with pytest.raises(HubError, match=said):
            opened.fetch(SHARD, ignore)

    def test_one_tensor_is_read_by_itself(self, opened, server, published):
        tensor = opened.checkpoint.tensors["model.norm.weight"]
        whole = (published / tensor.file.name).read_bytes()
        assert opened.read(tensor) == whole[tensor.start : tensor.end]
        assert server.sent_bytes == {tensor.file.name: tensor.nbytes}
        server.ignore_ranges = True
        with pytest.raises(HubError, match="was sent whole"):
            opened.read(tensor)


class TestKeeping:
    def test_files_kept_one_by_one_make_a_snapshot_for_every_tool(
        self, opened, server, published, monkeypatch
    ):
        for name in SHARDS:
            seen = []
            path = opened.fetch_to_cache(name, lambda *counts: seen.append(counts))  # noqa: B023
            assert path.read_bytes() == (published / name).read_bytes()
            assert seen[-1] == (path.stat().st_size,) * 2
        assert opened.snapshot is None
        opened.complete_snapshot()
        assert all(server.sent_bytes[name] == opened.file_bytes[name] for name in SHARDS)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        folder = hub.resolve(REPO)
        assert folder == opened.snapshot
        assert names_in(folder) == SMALL | set(SHARDS)
        assert same(Checkpoint.open(folder).in_folder(published), published, published)

    def test_at_a_commit_no_branch_is_led_there(self, server, folder, monkeypatch):
        opened = RemoteCheckpoint.open(REPO, COMMIT, folder)
        for name in SHARDS:
            opened.fetch_to_cache(name, ignore)
        opened.complete_snapshot()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert hub.resolve(f"{REPO}@{COMMIT}") == opened.snapshot
        with pytest.raises(HubError):
            hub.resolve(REPO)

    def test_a_kept_one_is_not_fetched_again(self, opened, server):
        path = opened.fetch_to_cache(SHARD, ignore)
        server.requests.clear()
        assert opened.fetch_to_cache(SHARD, ignore) == opened.fetch(SHARD, ignore) == path
        assert server.downloads() == []

    def test_a_cache_without_room_is_found_out_first(self, opened, server, monkeypatch):
        monkeypatch.setattr(downloading.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
        with pytest.raises(HubError, match=r"needs 0\.0 GB more in .* set HF_HOME"):
            opened.fetch_to_cache(SHARD, ignore)
        assert server.downloads() == []
