"""A converted folder is what mlx-lm and this program load, it holds every tensor, and it is there whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from builders import write_hf_checkpoint, write_mlx_checkpoint
from reference.mlx_lm_logits import mlx_lm_logits
from tolerances import MLX_LM_FP32

from mlx_qnext import load_model
from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.errors import CheckpointError, QnextError, UnsupportedModelError, UsageError
from mlx_qnext.hub import embedded_model
from mlx_qnext.quantization import Precision
from quantize.convert import quantize_checkpoint
from quantize.recipe import Recipe

RECIPE = Recipe(Precision(bits=4, group_size=32))
TOKENS = mx.array([[(5 * n + n * n) % 96 for n in range(20)]])
EXPERTS = "model.layers.0.mlp.switch_mlp.up_proj"
ROUTER = "model.layers.0.mlp.gate"
TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


@pytest.fixture(autouse=True)
def on_the_cpu() -> Iterator[None]:
    """There the engine computes in fp32."""
    device = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(device)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as published: shards, MTP head, tokenizer."""
    folder = write_hf_checkpoint(tmp_path_factory.mktemp("published") / "model", shards=2)
    for file in TEXT_FILES:
        shutil.copy(embedded_model() / file, folder)
    return folder


@pytest.fixture(scope="module")
def converted(published: Path) -> Path:
    dest = published.parent / "converted"
    quantize_checkpoint(published, dest, RECIPE)
    return dest


def arrays(folder: Path) -> dict[str, mx.array]:
    checkpoint = Checkpoint.open(folder)
    return checkpoint.arrays(checkpoint.tensors)


def quantization(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["quantization"]


class TestWhatIsWritten:
    def test_mlx_lm_loads_it_and_gives_the_logits_that_this_program_gives(self, converted: Path) -> None:
        model, _ = load_model(converted)
        MLX_LM_FP32.check(np.array(model(TOKENS)), mlx_lm_logits(converted, TOKENS), "logits")

    def test_the_mtp_head_lies_in_a_file_that_mlx_lm_does_not_read(
        self, published: Path, converted: Path
    ) -> None:
        tensors = Checkpoint.open(converted).tensors.values()
        assert {t.file.name for t in tensors if t.name.startswith("mtp.")} == {"mtp.safetensors"}
        assert {t.file.name for t in tensors if not t.name.startswith("mtp.")} == {"model.safetensors"}
        model, _ = load_model(converted)
        assert model.mtp is not None
        assert model.mtp(mx.zeros((1, 3, 64)), TOKENS[:, :3]).shape == (1, 3, 64)

    def test_a_model_without_mtp_head_has_no_such_file(self, tmp_path: Path) -> None:
        quantize_checkpoint(write_hf_checkpoint(tmp_path / "model", mtp=False), tmp_path / "out", RECIPE)
        assert not (tmp_path / "out" / "mtp.safetensors").exists()
        assert load_model(tmp_path / "out")[0].mtp is None

    def test_every_expert_keeps_its_place_in_the_stack(self, published: Path, converted: Path) -> None:
        source, written = arrays(published), arrays(converted)
        for n in range(4):
            weight = source[f"model.layers.0.mlp.experts.{n}.up_proj.weight"]
            packed = mx.quantize(weight, group_size=32, bits=4)
            for name, part in zip(("weight", "scales", "biases"), packed, strict=True):
                assert (written[f"{EXPERTS}.{name}"][n] == part).all()

    def test_norms_are_shifted_in_fp32_but_for_the_gated_one(self, published: Path, converted: Path) -> None:
        source, written = arrays(published), arrays(converted)
        for name in ("model.norm.weight", "mtp.pre_fc_norm_hidden.weight"):
            assert written[name].dtype == mx.float32
            assert (written[name] == source[name].astype(mx.float32) + 1).all()
        gated = "model.layers.0.linear_attn.norm.weight"
        assert (written[gated] == source[gated]).all()

    def test_the_tokenizer_and_its_like_come_along(self, published: Path, converted: Path) -> None:
        for file in TEXT_FILES:
            assert (converted / file).read_bytes() == (published / file).read_bytes()

    def test_the_embedded_model_is_what_its_source_converts_to(
        self, bf16_checkpoint: Path, tmp_path: Path
    ) -> None:
        quantize_checkpoint(bf16_checkpoint, tmp_path / "out", Recipe(Precision(bits=4, group_size=64)))
        shipped, fresh = arrays(embedded_model()), arrays(tmp_path / "out")
        assert quantization(embedded_model()) == quantization(tmp_path / "out")
        assert {n: (a.shape, a.dtype) for n, a in shipped.items()} == {
            n: (a.shape, a.dtype) for n, a in fresh.items()
        }
        # Packed values may differ in a last bit between machines.
        plain = [name for name, array in shipped.items() if array.dtype == mx.float32]
        assert all(mx.array_equal(shipped[name], fresh[name]) for name in plain)


class TestRecipe:
    @pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
    def test_every_matrix_has_the_recipes_bits_and_routers_eight(self, bits: int, tmp_path: Path) -> None:
        dest = tmp_path / "out"
        quantize_checkpoint(write_hf_checkpoint(tmp_path / "model"), dest, Recipe(Precision(bits, 64)))
        checkpoint = Checkpoint.open(dest)
        assert checkpoint.precision_of(EXPERTS) == Precision(bits, 64)
        assert checkpoint.precision_of("model.embed_tokens") == Precision(bits, 64)
        assert checkpoint.precision_of(ROUTER) == Precision(8, 64)
        load_model(dest)

    def test_what_does_not_divide_into_groups_stays_plain_and_is_named(self, tmp_path: Path) -> None:
        dest = tmp_path / "out"
        narrow = {"moe_intermediate_size": 96, "shared_expert_intermediate_size": 96}
        quantize_checkpoint(write_hf_checkpoint(tmp_path / "model", narrow), dest, Recipe(Precision(4, 64)))
        down = EXPERTS.replace("up_proj", "down_proj")
        assert quantization(dest)[down] is False
        assert Checkpoint.open(dest).precision_of(down) is None
        model, _ = load_model(dest)
        MLX_LM_FP32.check(np.array(model(TOKENS)), mlx_lm_logits(dest, TOKENS), "logits")


class TestWholeOrNotAtAll:
    def contents(self, folder: Path) -> set[str]:
        return {path.name for path in folder.iterdir()}

    @pytest.mark.parametrize("failure", [OSError("No space left on device"), KeyboardInterrupt()])
    @pytest.mark.parametrize("file", ["model.safetensors", "mtp.safetensors", "config.json"])
    def test_a_failure_leaves_nothing_behind_and_the_next_run_succeeds(
        self,
        file: str,
        failure: BaseException,
        published: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        save, write_text = mx.save_safetensors, Path.write_text

        def failing_save(path: str, *args: Any) -> None:
            save(path, *args)
            if path.endswith(file):
                raise failure

        def failing_write(path: Path, *args: Any, **kwargs: Any) -> int:
            if path.name == file:
                raise failure
            return write_text(path, *args, **kwargs)

        with monkeypatch.context() as broken:
            broken.setattr(mx, "save_safetensors", failing_save)
            broken.setattr(Path, "write_text", failing_write)
            with pytest.raises(type(failure)):
                quantize_checkpoint(published, tmp_path / "out", RECIPE)
        assert self.contents(tmp_path) == set()
        quantize_checkpoint(published, tmp_path / "out", RECIPE)
        assert self.contents(tmp_path) == {"out"}

    def test_what_a_killed_run_left_is_replaced(self, published: Path, tmp_path: Path) -> None:
        (tmp_path / "out.partial").mkdir()
        (tmp_path / "out.partial" / "model-00007.safetensors").write_bytes(b"half")
        quantize_checkpoint(published, tmp_path / "out", RECIPE)
        assert self.contents(tmp_path) == {"out"}
        assert "model-00007.safetensors" not in self.contents(tmp_path / "out")

    @pytest.mark.parametrize("is_folder", [True, False])
    def test_what_exists_is_never_overwritten(self, is_folder: bool, published: Path, tmp_path: Path) -> None:
        dest = tmp_path / "out"
        if is_folder:
            dest.mkdir()
            (dest / "precious").write_text("mine")
        else:
            dest.write_text("mine")
        with pytest.raises(UsageError, match="exists already"):
            quantize_checkpoint(published, dest, RECIPE)
        assert (dest / "precious" if is_folder else dest).read_text() == "mine"
        assert self.contents(tmp_path) == {"out"}


def write_mlx_mtp_head(folder: Path) -> Path:
    """An HF trunk beside an MTP head that was converted."""
    write_hf_checkpoint(folder, mtp=False)
    other = Checkpoint.open(write_mlx_checkpoint(folder.with_name("other"), mtp="beside"))
    head = other.arrays(name for name in other.tensors if name.startswith("mtp."))
    mx.save_safetensors(str(folder / "mtp.safetensors"), head, {"format": "mlx"})
    return folder


REFUSED = {
    "a model that is quantised": (write_mlx_checkpoint, UnsupportedModelError, "name the original"),
    "an MTP head that was converted": (write_mlx_mtp_head, UnsupportedModelError, "name the original"),
    "another architecture": (
        lambda folder: edit(write_hf_checkpoint(folder), model_type="llama"),
        UnsupportedModelError,
        "llama",
    ),
    "another program's quantisation": (
        lambda folder: edit(write_hf_checkpoint(folder), quantization_config={"quant_method": "fp8"}),
        UnsupportedModelError,
        "fp8",
    ),
    "a folder without weights": (
        lambda folder: edit(write_hf_checkpoint(folder), "model.safetensors"),
        CheckpointError,
        "safetensors",
    ),
}


def edit(folder: Path, *removed: str, **changes: object) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    for file in removed:
        (folder / file).unlink()
    return folder


@pytest.mark.parametrize("row", REFUSED)
def test_what_cannot_be_converted_is_refused_and_leaves_nothing(row: str, tmp_path: Path) -> None:
    write, kind, phrase = REFUSED[row]
    source = write(tmp_path / "model")
    with pytest.raises(kind) as caught:
        quantize_checkpoint(source, tmp_path / "out", RECIPE)
    assert isinstance(caught.value, QnextError)
    assert phrase in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]
