"""From a model's name to its folder, with the real hub client against a hub on this machine."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import TINY, write_hf_checkpoint
from fakes.hub import COMMIT, TOKEN, FakeHub, serving
from huggingface_hub import constants, hf_hub_download

from mlx_qnext import blobs, hub
from mlx_qnext import download as downloading
from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.errors import CheckpointError, HubError, ModelNotFoundError, UnsupportedModelError

REPO = "qwen/tiny"
WANTED = {"config.json", "model.safetensors.index.json", "tokenizer.json", "chat_template.jinja"} | {
    f"model-{shard:05}-of-00003.safetensors" for shard in (1, 2, 3)
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    folder = write_hf_checkpoint(tmp_path_factory.mktemp("published"), shards=3)
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    unwanted = {
        "README.md": b"# hi",
        "modeling.py": b"boom",
        "original/extra.safetensors": b"x",
        "model.bin": b"x",
    }
    return files | {"tokenizer.json": b"{}", "chat_template.jinja": b"{{ 1 }}"} | unwanted


@pytest.fixture
def server(files, tmp_path):
    with serving({REPO: dict(files)}, tmp_path / "cache") as fake:
        yield fake


def interrupt_after(nbytes: int):
    """A progress callback that acts as a user who presses Ctrl-C."""

    def on_progress(done: int, total: int) -> None:
        if done > nbytes:
            raise KeyboardInterrupt

    return on_progress


class TestNames:
    def test_a_folder_is_itself(self, tmp_path):
        assert hub.resolve(str(tmp_path)) == tmp_path

    def test_a_relative_folder_that_looks_like_a_repository_is_a_folder(self, tmp_path, monkeypatch):
        (tmp_path / "org" / "name").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        assert hub.resolve("org/name") == Path("org/name")

    def test_the_home_folder_is_understood(self, tmp_path, monkeypatch):
        (tmp_path / "models").mkdir()
        monkeypatch.setenv("HOME", str(tmp_path))
        assert hub.resolve("~/models") == tmp_path / "models"

    def test_demo_is_the_embedded_model_even_beside_a_folder_of_that_name(self, tmp_path, monkeypatch):
        (tmp_path / "demo").mkdir()
        (tmp_path / "package" / "demo" / "weights").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(hub.resources, "files", lambda _: tmp_path / "package")
        assert hub.resolve("demo") == tmp_path / "package" / "demo" / "weights"
        assert hub.resolve("./demo") == Path("demo")

    def test_an_installation_without_the_embedded_model_says_so(self, tmp_path, monkeypatch):
        monkeypatch.setattr(hub.resources, "files", lambda _: tmp_path)
        with pytest.raises(ModelNotFoundError, match="install again"):
            hub.resolve("demo")

    @pytest.mark.parametrize(
        "path",
        ["/no/such/folder", "./nowhere", "../nowhere", "~/nowhere-at-all", "~nobody/x", "a/b/c", "org/"],
    )
    def test_what_looks_like_a_path_is_never_asked_of_the_hub(self, server, path):
        with pytest.raises(ModelNotFoundError, match="does not exist: check the path"):
            hub.resolve(path)
        assert server.requests == []

    def test_a_file_is_not_a_model(self, tmp_path):
        (tmp_path / "model.safetensors").write_bytes(b"")
        with pytest.raises(ModelNotFoundError, match="is a file, expected the folder"):
            hub.resolve(str(tmp_path / "model.safetensors"))

    def test_an_unknown_word_lists_the_aliases_and_guesses(self):
        with pytest.raises(ModelNotFoundError, match=r"did you mean instruct-4bit\?.*thinking-8bit"):
            hub.resolve("instruct-4bits")

    @pytest.mark.parametrize(
        "name", ["", "zzz", "a b/c", "org/na me", "org/name@", "@x", "\0", "x" * 5000, "org/..."]
    )
    def test_what_can_be_no_name_is_refused(self, server, name):
        with pytest.raises(ModelNotFoundError):
            hub.resolve(name)
        assert server.requests == []

    def test_every_alias_is_a_repositorys_main_branch(self):
        for alias, repo in hub.REPOSITORIES.items():
            assert hub.locate(alias) == hub.Repository(repo, None)

    def test_a_folder_is_told_from_a_repository_without_asking_the_hub(self, server, tmp_path):
        assert hub.locate(str(tmp_path)) == tmp_path
        assert hub.locate("org/name") == hub.Repository("org/name", None)
        assert hub.locate("org/name@refs/pr/3") == hub.Repository("org/name", "refs/pr/3")
        assert server.requests == []

    def test_naming_a_folder_imports_no_hub_client(self, tmp_path):
        code = "import sys; from mlx_qnext.hub import resolve; resolve(sys.argv[1]); print('huggingface_hub' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "False"


class TestDownload:
    def test_an_alias_downloads_its_repository(self, server, monkeypatch):
        monkeypatch.setitem(hub.REPOSITORIES, "tiny", REPO)
        assert Checkpoint.open(hub.resolve("tiny")).has_mtp

    def test_the_snapshot_holds_the_model_and_nothing_that_runs(self, server, files):
        folder = hub.resolve(REPO)
        assert {path.name for path in folder.iterdir()} == WANTED
        assert all((folder / name).read_bytes() == files[name] for name in WANTED)
        assert folder.name == COMMIT

    def test_a_revision_follows_the_at_sign(self, server):
        assert hub.resolve(f"{REPO}@{COMMIT}") == hub.resolve(REPO)

    def test_a_second_call_fetches_nothing(self, server):
        first = hub.resolve(REPO)
        server.requests.clear()
        assert hub.resolve(REPO) == first
        assert server.downloads() == []

    def test_a_cache_that_is_complete_is_not_written_to(self, server):
        def written() -> dict[str, tuple[int, int]]:
            files = [path for path in Path(constants.HF_HUB_CACHE).rglob("*") if path.is_file()]
            return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}

        hub.resolve(REPO)
        before = written()
        hub.resolve(REPO)
        assert written() == before

    def test_what_another_tool_cached_is_not_fetched_again(self, server):
        downloading.snapshot_download(REPO, tqdm_class=downloading.SilentBar)
        server.requests.clear()
        hub.resolve(REPO)
        assert server.downloads() == []

    def test_what_this_program_cached_serves_other_tools(self, server):
        folder = hub.resolve(REPO)
        patterns = {"allow_patterns": downloading.WANTED, "ignore_patterns": downloading.UNWANTED}
        assert downloading.snapshot_download(REPO, local_files_only=True, **patterns) == str(folder)

    def test_the_branch_is_asked_once_where_it_leads(self, server):
        hub.resolve(REPO)
        assert [path for _, path in server.requests if path.endswith("/main")] == [
            f"api/models/{REPO}/revision/main"
        ]

    def test_progress_counts_every_byte_of_the_weights_once(self, server, files):
        seen = []
        hub.resolve(REPO, lambda done, total: seen.append((done, total)))
        total = sum(len(files[name]) for name in WANTED if name.endswith(".safetensors"))
        assert seen[-1] == (total, total)
        assert seen == sorted(seen)

    def test_the_token_goes_to_the_hub(self, server):
        hub.resolve(REPO)
        assert set(server.tokens) == {f"Bearer {TOKEN}"}

    def test_the_cached_snapshot_serves_while_the_hub_is_away(self, server, monkeypatch):
        folder = hub.resolve(REPO)
        server.status = 503
        assert hub.resolve(REPO) == folder
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert hub.resolve(REPO) == folder

    def test_nothing_is_drawn_on_the_terminal(self, server, capfd):
        hub.resolve(REPO)
        assert capfd.readouterr() == ("", "")


class TestResuming:
    def shard_ranges(self, server) -> list[str | None]:
        return [
            wanted
            for name, asked in server.ranges.items()
            if name.endswith(".safetensors")
            for wanted in asked
        ]

    def test_a_download_that_the_user_stopped_goes_on_where_it_stopped(self, server, files):
        with pytest.raises(KeyboardInterrupt):
            hub.resolve(REPO, interrupt_after(400_000))
        partial = {path.stat().st_size for path in Path(constants.HF_HUB_CACHE).rglob("*.incomplete")}
        server.ranges.clear()
        seen = []
        folder = hub.resolve(REPO, lambda done, total: seen.append((done, total)))
        assert set(self.shard_ranges(server)) >= {f"bytes={size}-" for size in partial if size}
        assert partial
        assert seen[0][0] > 380_000
        assert seen[-1][0] == seen[-1][1]
        assert all((folder / name).read_bytes() == files[name] for name in WANTED)

    def test_a_download_that_the_hub_broke_off_goes_on_where_it_stopped(self, server, files, monkeypatch):
        monkeypatch.setattr(blobs, "CONNECTIONS", 1)
        server.cut_after, server.fail_after_cut = 100_000, True
        with pytest.raises(HubError, match=r"answered 503 .* to resume"):
            hub.resolve(REPO)
        server.cut_after, server.status = None, 200
        server.ranges.clear()
        folder = hub.resolve(REPO)
        assert "bytes=100000-" in self.shard_ranges(server)
        assert all((folder / name).read_bytes() == files[name] for name in WANTED)

    def test_a_connection_that_breaks_again_and_again_gets_there_without_a_word(self, server, files, capfd):
        server.cut_after = 150_000
        folder = hub.resolve(REPO)
        assert all((folder / name).read_bytes() == files[name] for name in WANTED)
        assert capfd.readouterr() == ("", "")

    def test_a_server_that_ignores_ranges_sends_the_file_anew(self, server, files):
        with pytest.raises(KeyboardInterrupt):
            hub.resolve(REPO, interrupt_after(400_000))
        server.ignore_ranges = True
        seen = []
        folder = hub.resolve(REPO, lambda done, total: seen.append((done, total)))
        assert all((folder / name).read_bytes() == files[name] for name in WANTED)
        assert seen[-1][0] == seen[-1][1]

    def test_a_partial_file_with_wrong_bytes_is_found_out_and_fetched_anew(self, server, files, monkeypatch):
        monkeypatch.setattr(blobs, "CONNECTIONS", 1)
        with pytest.raises(KeyboardInterrupt):
            hub.resolve(REPO, interrupt_after(100_000))
        for partial in Path(constants.HF_HUB_CACHE).rglob("*.incomplete"):
            partial.write_bytes(bytes(partial.stat().st_size))
        with pytest.raises(HubError, match="arrived damaged"):
            hub.resolve(REPO)
        folder = hub.resolve(REPO)
        assert all((folder / name).read_bytes() == files[name] for name in WANTED)

    def test_a_partial_file_that_is_longer_than_the_whole_is_fetched_anew(self, server, files, monkeypatch):
        monkeypatch.setattr(blobs, "CONNECTIONS", 1)
        with pytest.raises(KeyboardInterrupt):
            hub.resolve(REPO, interrupt_after(100_000))
        for partial in Path(constants.HF_HUB_CACHE).rglob("*.incomplete"):
            partial.write_bytes(bytes(10_000_000))
        seen = []
        folder = hub.resolve(REPO, lambda done, total: seen.append((done, total)))
        assert seen[-1][0] == seen[-1][1]
        assert all((folder / name).read_bytes() == files[name] for name in WANTED)

    def test_a_mistake_in_the_callers_progress_is_reported_and_ends_every_connection(self, server):
        def fail(done: int, total: int) -> None:
            raise ZeroDivisionError

        with pytest.raises(HubError, match="ZeroDivisionError"):
            hub.resolve(REPO, fail)


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "code", "kind", "said"),
        [
            (401, "RepoNotFound", ModelNotFoundError, "no model qwen/tiny, or keeps it private"),
            (404, "RepoNotFound", ModelNotFoundError, "no model qwen/tiny"),
            (404, "RevisionNotFound", ModelNotFoundError, "no such revision"),
            (403, "GatedRepo", HubError, "accept terms"),
            (401, None, HubError, r"\(401\)|keeps it private"),
            (403, None, HubError, r"refused access to qwen/tiny \(403\)"),
            (429, None, HubError, "too many requests"),
            (500, None, HubError, "answered 500"),
            (503, None, HubError, "answered 503"),
        ],
    )
    def test_each_status_is_one_sentence_without_the_token(self, server, status, code, kind, said):
        server.status, server.error_code = status, code
        with pytest.raises((HubError, ModelNotFoundError), match=said) as caught:
            hub.resolve(REPO)
        assert TOKEN not in str(caught.value)
        assert "\n" not in str(caught.value)
        if not (status == 401 and code is None):
            assert type(caught.value) is kind

    def test_an_unknown_repository_and_revision(self, server):
        with pytest.raises(ModelNotFoundError, match="no model org/nothing"):
            hub.resolve("org/nothing")
        with pytest.raises(ModelNotFoundError, match="no such revision"):
            hub.resolve(f"{REPO}@v9")

    def test_a_hub_that_cannot_be_reached(self, server, monkeypatch):
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(HubError, match=r"could not be downloaded \(ConnectError\): check the connection"):
            hub.resolve(REPO)

    def test_an_endpoint_that_is_no_address(self, server, monkeypatch):
        monkeypatch.setattr(constants, "ENDPOINT", "not an address")
        with pytest.raises(HubError, match="could not be downloaded"):
            hub.resolve(REPO)

    def test_offline_without_the_model_in_the_cache(self, server, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
            hub.resolve(REPO)

    def test_a_cached_configuration_does_not_pass_for_a_model(self, server, monkeypatch):
        hf_hub_download(REPO, "config.json")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
            hub.resolve(REPO)

    def test_a_half_cached_model_does_not_pass_for_a_whole_one(self, server, monkeypatch):
        folder = hub.resolve(REPO)
        (folder / "model-00002-of-00003.safetensors").unlink()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(HubError):
            hub.resolve(REPO)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
    def test_a_disk_that_refuses(self, server, monkeypatch, number):
        def refuse(*args, **kwargs):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(blobs, "http_get", refuse)
        with pytest.raises(HubError, match="disk is full" if number == errno.ENOSPC else "cannot be written"):
            hub.resolve(REPO)

    def test_a_disk_too_small_is_found_before_anything_is_fetched(self, server, monkeypatch):
        monkeypatch.setattr(downloading.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
        with pytest.raises(HubError, match=r"needs 0\.0 GB more in .* set HF_HOME"):
            hub.resolve(REPO)
        assert not any(name.endswith(".safetensors") for name in server.downloads())

    def test_another_architecture_is_refused_before_its_weights_are_fetched(self, server):
        server.repos[REPO]["config.json"] = json.dumps(TINY | {"model_type": "llama"}).encode()
        with pytest.raises(
            UnsupportedModelError, match=r"config\.json of qwen/tiny is of model_type 'llama'"
        ):
            hub.resolve(REPO)
        assert server.downloads() == ["config.json"]

    def test_a_damaged_configuration_is_refused_before_the_weights_are_fetched(self, server):
        server.repos[REPO]["config.json"] = b"{"
        with pytest.raises(CheckpointError, match="not valid JSON"):
            hub.resolve(REPO)

    def test_a_repository_of_other_formats_is_refused_before_anything_is_fetched(self, server):
        server.repos["org/gguf"] = {"config.json": b"{}", "model-Q4.gguf": b"x" * 100}
        with pytest.raises(UnsupportedModelError, match="no safetensors"):
            hub.resolve("org/gguf")
        assert server.downloads() == []


@pytest.mark.slow
def test_the_clients_environment_variables_are_honoured(files, tmp_path):
    code = "import sys; from mlx_qnext.hub import resolve; print(resolve(sys.argv[1]))"
    with FakeHub({REPO: dict(files)}) as fake:
        environment = os.environ | {
            "HF_HOME": str(tmp_path),
            "HF_ENDPOINT": fake.endpoint,
            "HF_HUB_DISABLE_XET": "1",
        }
        command = [sys.executable, "-c", code, REPO]
        online = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    offline = subprocess.run(
        command, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=True
    )
    assert online.stdout == offline.stdout
    assert Path(online.stdout.strip()).is_relative_to(tmp_path / "hub" / "models--qwen--tiny" / "snapshots")


def test_the_folder_one_is_in_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub.resolve(".").resolve() == tmp_path.resolve()
