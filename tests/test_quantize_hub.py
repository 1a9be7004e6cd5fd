"""From the hub a conversion takes room for its result and two shards, whatever the size, and goes on where it was cut."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from builders import write_hf_checkpoint, write_mlx_checkpoint
from fakes.hub import COMMIT, FakeHub, serving
from fp8_builder import rename_dtype, write_fp8_checkpoint
from quantizing import quantize

from mlx_qnext.checkpoint import INDEX_FILE, Checkpoint
from mlx_qnext.errors import HubError, ModelNotFoundError, QnextError, UsageError
from mlx_qnext.hub import embedded_model, resolve
from mlx_qnext.remote import RemoteCheckpoint
from quantize.documents import DEFAULT_TEXT
from quantize.job import prepare
from quantize.recipe_file import find_recipe
from quantize.workspace import Workspace

REPO = "qwen/tiny"
RECIPE = find_recipe("4bit").with_group_size(32)
SHARDS = 6


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_hf_checkpoint(tmp_path_factory.mktemp("published") / "model", shards=SHARDS)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(embedded_model() / file, folder)
    (folder / "LICENSE").write_text("Do as you like.")
    return folder


@pytest.fixture(scope="module")
def converted(published: Path) -> Path:
    """The same model, made from a folder."""
    quantize(published, published.parent / "converted", RECIPE)
    return published.parent / "converted"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def server(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr("mlx_qnext.remote.FIRST_BYTES", 1000)
    with serving({REPO: files_of(published)}, tmp_path / "cache") as fake:
        yield fake


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def same_model(one: Path, other: Path) -> bool:
    """All files alike but the two that name the source."""
    first, second = files_of(one), files_of(other)
    for files in (first, second):
        del files["README.md"], files["qnext.json"]
    return {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)} == set()


def cached_weights(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("blobs/*") if path.stat().st_size > 20_000]


def sent_whole(server: FakeHub) -> set[str]:
    """The weight files of which more than a header was sent."""
    return {
        name
        for name, sent in server.sent_bytes.items()
        if name.endswith(".safetensors") and sent > len(server.repos[REPO][name]) / 2
    }


class TestStreaming:
    def test_it_is_the_model_that_a_folder_gives(self, server: FakeHub, converted: Path, out: Path) -> None:
        quantize(REPO, out, RECIPE)
        assert same_model(out, converted)
        assert (out / "LICENSE").read_text() == "Do as you like."
        assert f"from {REPO} at {COMMIT[:12]}" in (out / "README.md").read_text()

    def test_two_shards_at_most_are_on_the_disk_and_none_at_the_end(
        self, server: FakeHub, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shards, seen = Workspace(out).shards, []
        fetch = RemoteCheckpoint.fetch

        def watched(remote: RemoteCheckpoint, name: str, on_progress: object) -> Path:
            def look(done: int, total: int) -> None:
                here = {path.name.removesuffix(".incomplete") for path in shards.iterdir()}
                seen.append({name for name in here if name.endswith(".safetensors")})
                on_progress(done, total)

            return fetch(remote, name, look)

        monkeypatch.setattr(RemoteCheckpoint, "fetch", watched)
        quantize(REPO, out, RECIPE)
        assert len(set.union(*seen)) == SHARDS
        assert max(map(len, seen)) <= 2
        assert not cached_weights(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} <= {"out", "cache"}

    def test_the_room_asked_for_is_that_of_the_result_and_two_shards(
        self, server: FakeHub, published: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with prepare(REPO, out, RECIPE) as job:
            sizes = sorted(path.stat().st_size for path in published.glob("*.safetensors"))
            assert job.room_bytes == job.plan.output_bytes + sum(sizes[-2:])

    def test_kept_shards_are_the_clients_own_snapshot(
        self, server: FakeHub, converted: Path, out: Path, published: Path
    ) -> None:
        quantize(REPO, out, RECIPE, keep_shards=True)
        assert same_model(out, converted)
        server.status = 503
        snapshot = resolve(REPO)
        assert {path.name for path in snapshot.glob("*.safetensors")} == {
            path.name for path in published.glob("*.safetensors")
        }

    def test_what_the_cache_holds_is_used_and_stays(
        self, server: FakeHub, converted: Path, out: Path
    ) -> None:
        snapshot = resolve(REPO)
        server.sent_bytes.clear()
        quantize(REPO, out, RECIPE)
        assert same_model(out, converted)
        assert not sent_whole(server)
        assert all(path.exists() for path in snapshot.iterdir())

    def test_block_scales_may_lie_in_another_shard(self, out: Path, tmp_path: Path) -> None:
        source, _ = write_fp8_checkpoint(tmp_path / "model")
        whole = quantize(source, tmp_path / "whole", RECIPE)
        _move_scales(source)
        with serving({REPO: files_of(source)}, tmp_path / "cache"):
            apart = quantize(REPO, out, RECIPE)
        assert apart.losses == whole.losses
        assert same_model(out, tmp_path / "whole")


def _move_scales(folder: Path) -> None:
    """The scales of an FP8 checkpoint go to a file of their own, ahead of the weights."""
    tensors = mx.load(str(folder / "model.safetensors"))
    assert isinstance(tensors, dict)
    mx.eval(tensors)
    (folder / "model.safetensors").unlink()
    scales = {name: array for name, array in tensors.items() if name.endswith("_scale_inv")}
    rest = {name: array for name, array in tensors.items() if name not in scales}
    mx.save_safetensors(str(folder / "model-00001-of-00002.safetensors"), scales, {"format": "pt"})
    mx.save_safetensors(str(folder / "model-00002-of-00002.safetensors"), rest, {"format": "pt"})
    rename_dtype(folder / "model-00002-of-00002.safetensors")


class TestGoingOn:
    def test_shards_that_are_converted_are_not_fetched_again(
        self, server: FakeHub, converted: Path, out: Path, published: Path
    ) -> None:
        names = [path.name for path in sorted(published.glob("*.safetensors"))]
        server.cuts, server.fail_after_cut = {names[3]: 20_000}, True
        with pytest.raises(HubError, match="run the"):
            quantize(REPO, out, RECIPE)
        assert not out.exists()
        server.status, server.cuts = 200, {}
        server.sent_bytes.clear()
        quantize(REPO, out, RECIPE)
        assert same_model(out, converted)
        assert not sent_whole(server) & set(names[:2])
        assert set(names[4:]) <= sent_whole(server)


class TestAddedHead:
    def test_only_shards_that_hold_the_head_are_fetched(
        self, server: FakeHub, published: Path, out: Path, tmp_path: Path
    ) -> None:
        gathered = _gather_head(published, tmp_path / "gathered")
        server.repos[REPO] = files_of(gathered)
        quantize(write_mlx_checkpoint(tmp_path / "quantised"), out, None, mtp_from=REPO)
        assert sent_whole(server) == {"model-00001-of-00002.safetensors"}
        assert (out / "mtp.safetensors").exists()


def _gather_head(published: Path, folder: Path) -> Path:
    """The model in two shards, all of the head in the first one."""
    checkpoint = Checkpoint.open(published)
    tensors = checkpoint.arrays(checkpoint.tensors)
    folder.mkdir()
    placed = {}
    for number, is_head in ((1, True), (2, False)):
        part = {name: array for name, array in tensors.items() if name.startswith("mtp.") == is_head}
        file = f"model-{number:05}-of-00002.safetensors"
        mx.save_safetensors(str(folder / file), part, {"format": "pt"})
        placed |= dict.fromkeys(part, file)
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    shutil.copy(published / "config.json", folder)
    return folder


REFUSED = {
    "a repository that is not there": (404, "RepoNotFound", ModelNotFoundError, "no model"),
    "one that asks for a login": (401, None, QnextError, "auth login"),
    "too many requests": (429, None, HubError, "wait"),
    "a hub that is down": (503, None, HubError, "503"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_a_hub_that_refuses_leaves_nothing(row: str, server: FakeHub, out: Path, tmp_path: Path) -> None:
    server.status, server.error_code, kind, phrase = REFUSED[row]
    with pytest.raises(kind) as caught:
        quantize(REPO, out, RECIPE)
    assert phrase in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


def test_a_shard_that_arrives_damaged_is_refused_and_the_rest_goes_on(
    server: FakeHub, converted: Path, out: Path, published: Path
) -> None:
    name = sorted(path.name for path in published.glob("*.safetensors"))[2]
    server.damaged = {name}
    with pytest.raises(HubError, match="damaged"):
        quantize(REPO, out, RECIPE)
    server.damaged = set()
    quantize(REPO, out, RECIPE)
    assert same_model(out, converted)


def test_to_evaluate_the_source_has_to_stay(server: FakeHub, out: Path) -> None:
    with prepare(REPO, out, RECIPE) as job, pytest.raises(UsageError, match="--keep-shards"):
        job.documents(DEFAULT_TEXT)
