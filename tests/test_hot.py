"""The hot set of a model is remembered between runs, and nothing that befalls its file is more than a loss of speed."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from platformdirs import PlatformDirs
from spoiling import describe, overwrite, retensor

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.errors import CheckpointError
from mlx_qnext.experts.hot import hot_key, load_hot, save_hot
from mlx_qnext.hub import resolve

KEY = "0123abcd"
EXPERTS = {"model.layers.0.mlp": [3, 1, 2], "mtp.layers.0.mlp": []}

FOREIGN = {
    "nothing": b"",
    "half of it": b'{"experts": {"model.layers.0.mlp": [3, 1',
    "no text": b"\xff\xfe\x00",
    "a list": b"[3, 1, 2]",
    "another object": b'{"model.layers.0.mlp": [3]}',
    "no object of experts": b'{"experts": [3]}',
    "no list of experts": b'{"experts": {"model.layers.0.mlp": 3}}',
    "names of experts": b'{"experts": {"model.layers.0.mlp": ["3"]}}',
    "fractions": b'{"experts": {"model.layers.0.mlp": [3.0]}}',
    "truths": b'{"experts": {"model.layers.0.mlp": [true]}}',
    "an expert below zero": b'{"experts": {"model.layers.0.mlp": [-1]}}',
    "an expert twice": b'{"experts": {"model.layers.0.mlp": [3, 3]}}',
    "a sound module beside a damaged one": b'{"experts": {"a": [3], "b": [null]}}',
    "a tower of brackets": b'{"experts": ' + b"[" * 100_000,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("QNEXT_CACHE", str(folder))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return shutil.copytree(resolve("demo"), tmp_path / "model")


def key_of(folder: Path) -> str:
    return hot_key(Checkpoint.open(folder))


class TestRemembering:
    @given(st.dictionaries(st.text(), st.lists(st.integers(0, 511), unique=True)))
    def test_what_is_saved_is_loaded_in_its_order(self, experts: dict[str, list[int]]) -> None:
        assert save_hot(KEY, experts)
        loaded = load_hot(KEY)
        assert loaded == experts

    def test_an_unknown_model_has_none(self) -> None:
        assert load_hot(KEY) == {}

    def test_models_do_not_share_theirs(self) -> None:
        save_hot(KEY, EXPERTS)
        save_hot("other", {})
        assert (load_hot(KEY), load_hot("other")) == (EXPERTS, {})

    def test_one_file_lies_in_the_cache_and_nothing_else(self, cache: Path) -> None:
        save_hot(KEY, EXPERTS)
        save_hot(KEY, EXPERTS)
        assert [path for path in cache.rglob("*") if path.is_file()] == [cache / "hot" / f"{KEY}.json"]

    def test_a_deleted_cache_is_made_anew(self, cache: Path) -> None:
        save_hot(KEY, EXPERTS)
        shutil.rmtree(cache)
        assert load_hot(KEY) == {}
        assert save_hot(KEY, EXPERTS)
        assert load_hot(KEY) == EXPERTS


class TestBadInput:
    @pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
    def test_a_foreign_file_counts_for_nothing_and_is_replaced(self, content: bytes, cache: Path) -> None:
        (cache / "hot").mkdir(parents=True)
        (cache / "hot" / f"{KEY}.json").write_bytes(content)
        assert load_hot(KEY) == {}
        assert save_hot(KEY, EXPERTS)
        assert load_hot(KEY) == EXPERTS

    def test_a_folder_in_the_files_place_counts_for_nothing(self, cache: Path) -> None:
        (cache / "hot" / f"{KEY}.json").mkdir(parents=True)
        assert load_hot(KEY) == {}
        assert not save_hot(KEY, EXPERTS)
        assert len(list((cache / "hot").iterdir())) == 1

    def test_a_file_in_the_caches_place_counts_for_nothing(self, cache: Path) -> None:
        cache.write_bytes(b"x")
        assert not save_hot(KEY, EXPERTS)
        assert load_hot(KEY) == {}

    def test_a_cache_that_may_not_be_read_counts_for_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        save_hot(KEY, EXPERTS)
        refuse(monkeypatch, "read_bytes")
        assert load_hot(KEY) == {}

    @pytest.mark.parametrize("step", ["mkdir", "write_text", "replace"])
    def test_a_cache_that_cannot_be_written_keeps_what_was_there(
        self, step: str, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_hot(KEY, EXPERTS)
        with monkeypatch.context() as patched:
            refuse(patched, step)
            assert not save_hot(KEY, {})
        assert load_hot(KEY) == EXPERTS
        assert len(list((cache / "hot").iterdir())) == 1

    def test_a_write_cut_off_leaves_the_old_file_whole(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_hot(KEY, EXPERTS)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", interrupt)
            with pytest.raises(KeyboardInterrupt):
                save_hot(KEY, {})
        assert load_hot(KEY) == EXPERTS
        assert len(list((cache / "hot").iterdir())) == 1

    def test_a_user_without_a_home_has_no_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("QNEXT_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr("platformdirs.PlatformDirs", homeless)
        assert load_hot(KEY) == {}
        assert not save_hot(KEY, EXPERTS)


class TestKey:
    def test_a_copy_elsewhere_has_the_same(self, model: Path, tmp_path: Path) -> None:
        moved = shutil.copytree(model, tmp_path / "elsewhere" / "renamed", copy_function=shutil.copyfile)
        assert key_of(moved) == key_of(model)

    def test_it_can_name_a_file(self, model: Path) -> None:
        key = key_of(model)
        assert key.isalnum()
        assert len(key) == 32

    def test_tensors_of_other_shapes_have_another(self, model: Path) -> None:
        before = key_of(model)
        retensor(lambda tensors: tensors.update({"model.norm.weight": mx.ones(7)}))(model)
        assert key_of(model) != before

    def test_the_same_bytes_described_otherwise_have_another(self, model: Path) -> None:
        before = key_of(model)
        (size,) = Checkpoint.open(model).tensors["model.norm.weight"].shape
        describe("model.norm.weight", shape=[1, size])(model)
        assert key_of(model) != before

    def test_other_weights_of_the_same_shapes_have_another(self, model: Path) -> None:
        before, checkpoint = key_of(model), Checkpoint.open(model)
        start = min(
            tensor.start for tensor in checkpoint.tensors.values() if tensor.file.name == "model.safetensors"
        )
        overwrite("model.safetensors", start, os.urandom(64))(model)
        assert key_of(model) != before

    def test_a_model_without_its_mtp_head_has_another(self, model: Path) -> None:
        before = key_of(model)
        (model / "mtp.safetensors").unlink()
        assert key_of(model) != before

    def test_a_file_that_is_gone_is_one_sentence(self, model: Path) -> None:
        checkpoint = Checkpoint.open(model)
        (model / "mtp.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"mtp\.safetensors is not there"):
            hot_key(checkpoint)


def refuse(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Tests may run as a user whom nothing is forbidden."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, method, refused)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def homeless(*_: object, **__: object) -> PlatformDirs:
    raise RuntimeError("could not determine the home directory")
