"""What `qnext quantize` makes is what mlx-lm and this program load, and it holds every tensor of its source."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from builders import mlx_tensors, write_hf_checkpoint, write_mlx_checkpoint
from fp8_builder import write_fp8_checkpoint
from quantizing import quantize
from reference.mlx_lm_logits import mlx_lm_logits
from tolerances import MLX_LM_FP32, QUANTIZED_VS_DEQUANTIZED

from mlx_qnext import load_model
from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.hub import embedded_model
from mlx_qnext.quantization import Precision
from quantize.affine import quantize_rows
from quantize.loss import Loss
from quantize.recipe import Recipe, Rule
from quantize.recipe_file import NAMES, find_recipe

RECIPE = find_recipe("4bit").with_group_size(32)
PLAIN = Recipe("plain", "", Precision(4, 32), (Rule(("*",), None),))
TOKENS = mx.array([[(5 * n + n * n) % 96 for n in range(20)]])
EXPERTS = "model.layers.0.mlp.switch_mlp.up_proj"
ROUTER = "model.layers.0.mlp.gate"
TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as published: shards that split every stack of experts, MTP head, tokenizer."""
    folder = write_hf_checkpoint(tmp_path_factory.mktemp("published") / "model", shards=3)
    for file in TEXT_FILES:
        shutil.copy(embedded_model() / file, folder)
    return folder


@pytest.fixture(scope="module")
def converted(published: Path) -> Path:
    dest = published.parent / "converted"
    quantize(published, dest, RECIPE)
    return dest


def arrays(folder: Path) -> dict[str, mx.array]:
    checkpoint = Checkpoint.open(folder)
    return checkpoint.arrays(checkpoint.tensors)


def quantization(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["quantization"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestWhatIsWritten:
    def test_mlx_lm_loads_it_and_gives_the_logits_that_this_program_gives(self, converted: Path) -> None:
        model, _ = load_model(converted)
        MLX_LM_FP32.check(np.array(model(TOKENS)), mlx_lm_logits(converted, TOKENS), "logits")

    def test_every_matrix_is_that_of_the_source_packed_by_rows(
        self, published: Path, converted: Path
    ) -> None:
        written, source = arrays(converted), mlx_tensors(published)
        checkpoint = Checkpoint.open(converted)
        matrices = [name for name, array in source.items() if array.ndim > 1 and "conv1d" not in name]
        assert EXPERTS + ".weight" in matrices
        for name in matrices:
            module = name.removesuffix(".weight")
            precision = checkpoint.precision_of(module)
            assert precision == find_recipe("4bit").with_group_size(32).precisions({module: 64}, 4)[module]
            flat = source[name].astype(mx.float32).reshape(-1, source[name].shape[-1])
            packed = quantize_rows(np.array(flat), precision)
            assert (np.array(written[name]).reshape(packed.weight.shape) == packed.weight).all()
            for part in ("scales", "biases"):
                halves = np.array(written[f"{module}.{part}"].view(mx.uint16))
                assert (halves.reshape(getattr(packed, part).shape) == getattr(packed, part)).all()

    def test_everything_else_is_the_source_in_mlx_layout(self, published: Path, converted: Path) -> None:
        written, source = arrays(converted), mlx_tensors(published)
        others = [name for name, array in source.items() if array.ndim == 1 or "conv1d" in name]
        assert len(others) > 20
        for name in others:
            assert written[name].shape == source[name].shape
            assert mx.array_equal(written[name], source[name].astype(mx.bfloat16)), name

    def test_the_mtp_head_lies_in_a_file_that_mlx_lm_does_not_read(self, converted: Path) -> None:
        tensors = Checkpoint.open(converted).tensors.values()
        assert {t.file.name for t in tensors if t.name.startswith("mtp.")} == {"mtp.safetensors"}
        assert {t.file.name for t in tensors if not t.name.startswith("mtp.")} == {"model.safetensors"}
        model, _ = load_model(converted)
        assert model.mtp is not None
        assert model.mtp(mx.zeros((1, 3, 64)), TOKENS[:, :3]).shape == (1, 3, 64)

    def test_a_model_without_mtp_head_has_no_such_file(self, tmp_path: Path) -> None:
        quantize(write_hf_checkpoint(tmp_path / "model", mtp=False), tmp_path / "out", RECIPE)
        assert not (tmp_path / "out" / "mtp.safetensors").exists()
        assert load_model(tmp_path / "out")[0].mtp is None

    def test_the_tokenizer_and_its_like_come_along(self, published: Path, converted: Path) -> None:
        for file in TEXT_FILES:
            assert (converted / file).read_bytes() == (published / file).read_bytes()

    def test_large_models_are_split_into_files_that_an_index_names(
        self, published: Path, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("quantize.plan.MAX_FILE_BYTES", 60_000)
        quantize(published, tmp_path / "out", RECIPE)
        files = {t.file.name for t in Checkpoint.open(tmp_path / "out").tensors.values()}
        count = len(files) - 1
        assert files == {f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)} | {
            "mtp.safetensors"
        }
        assert count > 2
        whole, split = arrays(converted), arrays(tmp_path / "out")
        assert whole.keys() == split.keys()
        assert all(mx.array_equal(whole[name], split[name]) for name in whole)
        MLX_LM_FP32.check(
            np.array(load_model(tmp_path / "out")[0](TOKENS)),
            mlx_lm_logits(tmp_path / "out", TOKENS),
            "logits",
        )

    def test_an_empty_folder_is_filled(self, published: Path, converted: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        quantize(published, tmp_path / "out", RECIPE)
        assert contents(tmp_path / "out") == contents(converted)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_the_card_says_what_it_was_made_from_and_what_was_lost(self, converted: Path) -> None:
        text = (converted / "README.md").read_text()
        for phrase in (
            "from model, by the recipe 4bit",
            "MTP head is in `mtp.safetensors`",
            "| experts |",
            "lost most",
        ):
            assert phrase in text


class TestEmbeddedModel:
    def test_it_is_what_quantize_makes_of_its_source_byte_for_byte(
        self, bf16_checkpoint: Path, tmp_path: Path
    ) -> None:
        quantize(bf16_checkpoint, tmp_path / "out", find_recipe("4bit"))
        assert contents(tmp_path / "out") == contents(embedded_model())


class TestSources:
    @pytest.mark.parametrize("dtype", [mx.float16, mx.float32], ids=str)
    def test_matrices_of_any_float_type_are_packed_from_their_own_values(
        self, dtype: mx.Dtype, tmp_path: Path
    ) -> None:
        source = write_hf_checkpoint(tmp_path / "model", dtype=dtype)
        quantize(source, tmp_path / "out", RECIPE)
        values = np.array(arrays(source)["mtp.fc.weight"].astype(mx.float32))
        written = arrays(tmp_path / "out")
        assert (np.array(written["mtp.fc.weight"]) == quantize_rows(values, Precision(4, 32)).weight).all()
        decay = {name for name in written if name.endswith(("A_log", "dt_bias"))}
        assert {written[name].dtype for name in decay} == {dtype}
        assert {written[name].dtype for name in written.keys() - decay} == {mx.bfloat16, mx.uint32}
        QUANTIZED_VS_DEQUANTIZED.check(
            np.array(load_model(tmp_path / "out")[0](TOKENS)),
            mlx_lm_logits(tmp_path / "out", TOKENS),
            "logits",
        )

    def test_fp8_is_read_with_its_block_scales(self, tmp_path: Path) -> None:
        wide = {"hidden_size": 192, "moe_intermediate_size": 160, "shared_expert_intermediate_size": 160}
        source, values = write_fp8_checkpoint(tmp_path / "model", wide)
        quantize(source, tmp_path / "out", RECIPE)
        written, checkpoint = arrays(tmp_path / "out"), Checkpoint.open(tmp_path / "out")
        assert not [name for name in checkpoint.tensors if "scale_inv" in name]
        for module in (
            "model.layers.3.self_attn.o_proj",
            "model.layers.0.linear_attn.in_proj_qkvz",
            "mtp.fc",
        ):
            expected = quantize_rows(np.array(values[f"{module}.weight"]), Precision(4, 32))
            assert (np.array(written[f"{module}.weight"]) == expected.weight).all(), module
        for n in range(4):
            expert = np.array(values[f"model.layers.0.mlp.experts.{n}.up_proj.weight"])
            assert (
                np.array(written[f"{EXPERTS}.weight"][n]) == quantize_rows(expert, Precision(4, 32)).weight
            ).all()
        assert (
            "quant_method"
            not in json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
        )
        load_model(tmp_path / "out")

    def test_fp8_that_a_recipe_keeps_becomes_bf16(self, tmp_path: Path) -> None:
        source, values = write_fp8_checkpoint(tmp_path / "model")
        quantize(source, tmp_path / "out", PLAIN)
        kept = arrays(tmp_path / "out")["model.layers.3.self_attn.o_proj.weight"]
        assert mx.array_equal(kept, values["model.layers.3.self_attn.o_proj.weight"].astype(mx.bfloat16))

    def test_a_model_in_mlx_layout_gives_the_same_weights(
        self, published: Path, converted: Path, tmp_path: Path
    ) -> None:
        quantize(published, tmp_path / "plain", PLAIN)
        config = json.loads((tmp_path / "plain" / "config.json").read_text())
        del config["quantization"], config["quantization_config"]
        (tmp_path / "plain" / "config.json").write_text(json.dumps(config))
        quantize(tmp_path / "plain", tmp_path / "out", RECIPE)
        again, once = arrays(tmp_path / "out"), arrays(converted)
        assert again.keys() == once.keys()
        assert all(mx.array_equal(again[name], once[name]) for name in once)


class TestRecipes:
    @pytest.mark.parametrize("name", NAMES)
    def test_each_one_makes_a_model_that_both_programs_load(
        self, name: str, bf16_checkpoint: Path, tmp_path: Path
    ) -> None:
        quantize(bf16_checkpoint, tmp_path / "out", find_recipe(name))
        tokens = mx.array([[17, 300, 4, 99, 1000]])
        model, _ = load_model(tmp_path / "out")
        logits = mlx_lm_logits(tmp_path / "out", tokens)
        QUANTIZED_VS_DEQUANTIZED.check(np.array(model(tokens)), logits, "logits")

    def test_the_loss_of_each_module_is_told(self, converted: Path, published: Path, tmp_path: Path) -> None:
        facts = quantize(published, tmp_path / "out", RECIPE)
        weights = np.array(arrays(published)["mtp.fc.weight"].astype(mx.float32))
        packed = quantize_rows(weights, Precision(4, 32))
        assert facts.losses["mtp.fc"] == Loss(packed.squared_error, packed.squared_sum)
        assert facts.losses.keys() == {
            name.removesuffix(".scales") for name in arrays(converted) if "scales" in name
        }
        manifest = json.loads((converted / "qnext.json").read_text())
        assert manifest["loss"] == {name: loss.relative for name, loss in facts.losses.items()}


class TestAddedHead:
    @pytest.fixture
    def quantised(self, tmp_path: Path) -> Path:
        """A conversion that dropped the head, as mlx-lm makes them."""
        folder = write_mlx_checkpoint(tmp_path / "quantised", bits=4, group_size=32)
        for file in TEXT_FILES:
            shutil.copy(embedded_model() / file, folder)
        return folder

    def test_the_trunk_stays_and_the_head_is_the_donors(
        self, quantised: Path, published: Path, converted: Path, tmp_path: Path
    ) -> None:
        quantize(quantised, tmp_path / "out", None, mtp_from=published)
        written, donor = arrays(tmp_path / "out"), arrays(converted)
        trunk = arrays(quantised)
        assert written.keys() == trunk.keys() | {name for name in donor if name.startswith("mtp.")}
        assert all(mx.array_equal(written[name], (donor | trunk)[name]) for name in written)
        model, _ = load_model(tmp_path / "out")
        assert model.mtp is not None
        assert quantization(tmp_path / "out")["mtp.layers.0.mlp.gate"] == {"bits": 8, "group_size": 32}
        assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (
            quantised / "tokenizer.json"
        ).read_bytes()

    def test_the_trunk_takes_no_room_of_its_own(
        self, quantised: Path, published: Path, tmp_path: Path
    ) -> None:
        quantize(quantised, tmp_path / "out", None, mtp_from=published)
        assert (tmp_path / "out" / "model.safetensors").samefile(quantised / "model.safetensors")

    def test_a_file_that_is_none_of_the_models_stays_where_it_is(
        self, quantised: Path, published: Path, tmp_path: Path
    ) -> None:
        (quantised / "notes.safetensors").write_bytes(b"no weights")
        quantize(quantised, tmp_path / "out", None, mtp_from=published)
        assert not (tmp_path / "out" / "notes.safetensors").exists()

    def test_a_recipe_of_its_own_holds_for_the_head(
        self, quantised: Path, published: Path, tmp_path: Path
    ) -> None:
        quantize(quantised, tmp_path / "out", find_recipe("8bit"), mtp_from=published)
        checkpoint = Checkpoint.open(tmp_path / "out")
        assert checkpoint.precision_of("mtp.fc") == Precision(8, 64)
        assert checkpoint.precision_of("lm_head") == Precision(4, 32)
        load_model(tmp_path / "out")
