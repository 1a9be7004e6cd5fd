"""However a model is stored, it loads as the same model: layouts, precisions, what mlx-lm writes; and loading is thrifty."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import numpy as np
import pytest
from builders import TINY, mlx_tensors, write_hf_checkpoint
from mlx.utils import tree_flatten
from reference.mlx_lm_logits import mlx_lm_logits
from tolerances import MLX_LM_FP32, QUANTIZED_VS_DEQUANTIZED

from benchmarks.synthetic import FULL_SHAPE, SyntheticCheckpoint
from mlx_qnext import load_model
from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.hub import embedded_model
from mlx_qnext.model.qwen3_next import Model

Tensors = dict[str, mx.array]
Settings = dict[str, Any]

# A few tokens are multiplied with packed weights, many with weights unpacked first.
FEW = mx.array([[5, 17, 80]])
MANY = mx.array([[(7 * n + n * n) % 96 for n in range(24)]])

# Divisible by every group size, columns of output projections included.
WIDE = {
    "num_hidden_layers": 2,
    "full_attention_interval": 2,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "linear_num_value_heads": 4,
    "moe_intermediate_size": 128,
    "shared_expert_intermediate_size": 128,
}


def load(folder: Path) -> Model:
    return load_model(folder)[0]


def logits(model: Model, tokens: mx.array = MANY) -> np.ndarray:
    return np.array(model(tokens))


def drafts(model: Model) -> np.ndarray:
    """What the MTP head says after a fixed hidden state."""
    assert model.mtp is not None
    hidden = mx.sin(mx.arange(FEW.size * model.config.hidden_size)).reshape(*FEW.shape, -1)
    return np.array(model.logits(model.mtp(hidden, FEW)))


def write_mlx(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, mx.array],
    mtp: Literal["absent", "inside", "beside"] = "inside",
) -> Path:
    """A folder in MLX layout that holds these tensors."""
    head = {name: array for name, array in tensors.items() if name.startswith("mtp.")}
    trunk = {name: array for name, array in tensors.items() if name not in head}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    inside = head if mtp == "inside" else {}
    mx.save_safetensors(str(folder / "model.safetensors"), trunk | inside, {"format": "mlx"})
    if mtp == "beside":
        mx.save_safetensors(str(folder / "mtp.safetensors"), head, {"format": "mlx"})
    return folder


def publish(folder: Path, tensors: Tensors, *, shards: int = 1) -> Path:
    """A folder in HF layout that holds these tensors."""
    write_hf_checkpoint(folder, shards=shards)
    placed = Checkpoint.open(folder).tensors.values()
    for file in {tensor.file for tensor in placed}:
        held = {tensor.name for tensor in placed if tensor.file == file} & tensors.keys()
        mx.save_safetensors(str(file), {name: tensors[name] for name in held}, {"format": "pt"})
    return folder


def apart(folder: Path, tensors: Tensors) -> Path:
    """As `publish`, the MTP head in a file of its own."""
    publish(folder, trunk_of(tensors))
    head = {name: array for name, array in tensors.items() if name.startswith("mtp.")}
    mx.save_safetensors(str(folder / "mtp.safetensors"), head, {"format": "pt"})
    return folder


def trunk_of(tensors: Tensors) -> Tensors:
    return {name: array for name, array in tensors.items() if not name.startswith("mtp.")}


WAYS: dict[str, Callable[[Path, Tensors, Tensors], Path]] = {
    "HF, in one file": lambda folder, hf, _: publish(folder, hf),
    "HF, in three shards": lambda folder, hf, _: publish(folder, hf, shards=3),
    "HF, its MTP head in another file": lambda folder, hf, _: apart(folder, hf),
    "HF, without MTP head": lambda folder, hf, _: publish(folder, trunk_of(hf)),
    "MLX, its MTP head inside": lambda folder, _, mlx: write_mlx(folder, TINY, mlx, "inside"),
    "MLX, its MTP head in another file": lambda folder, _, mlx: write_mlx(folder, TINY, mlx, "beside"),
    "MLX, without MTP head": lambda folder, _, mlx: write_mlx(folder, TINY, mlx, "absent"),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf_checkpoint(tmp_path_factory.mktemp("published"))


class TestLayouts:
    @pytest.mark.parametrize("way", WAYS)
    def test_one_model_stored_in_any_way_is_the_same_to_the_last_bit(
        self, way: str, published: Path, tmp_path: Path
    ) -> None:
        source = Checkpoint.open(published)
        folder = WAYS[way](tmp_path / "other", source.arrays(source.tensors), mlx_tensors(published))
        model, other = load(published), load(folder)
        assert (logits(model) == logits(other)).all()
        assert (other.mtp is None) == ("without" in way)
        if other.mtp is not None:
            assert (drafts(model) == drafts(other)).all()

    def test_other_weights_are_another_model(self, published: Path, tmp_path: Path) -> None:
        model, other = load(published), load(write_hf_checkpoint(tmp_path, seed=1))
        assert (logits(model) != logits(other)).any()
        assert (drafts(model) != drafts(other)).any()


def pack(tensors: Tensors, settings: Settings) -> tuple[Tensors, Tensors]:
    """The tensors as mlx-lm packs them by `settings`, and the plain fp32 values that those stand for."""
    packed, plain = {}, {}
    for name, array in tensors.items():
        module = name.removesuffix(".weight")
        precision = settings.get(module, True)
        if array.ndim < 2 or module.endswith("conv1d") or precision is False:
            packed[name] = plain[name] = array
            continue
        precision = settings if precision is True else precision
        packing = {"bits": precision["bits"], "group_size": precision["group_size"]}
        parts = mx.quantize(array, **packing)
        packed |= dict(zip((name, f"{module}.scales", f"{module}.biases"), parts, strict=True))
        weight, scales, biases = parts
        plain[name] = mx.dequantize(weight, scales.astype(mx.float32), biases.astype(mx.float32), **packing)
    return packed, plain


def quantised_pair(folder: Path, settings: Settings, config: Mapping[str, Any] = WIDE) -> tuple[Path, Path]:
    """One model twice: packed by `settings`, and plain in fp32; norms and what else stays plain in bf16."""
    source = Checkpoint.open(write_hf_checkpoint(folder / "source", dict(config)))
    tensors = {
        name: array.astype(mx.bfloat16) if array.ndim == 1 else array
        for name, array in mlx_tensors(source.folder).items()
    }
    packed, plain = pack(tensors, settings)
    named = source.config | {"quantization": settings, "quantization_config": settings}
    return (
        write_mlx(folder / "packed", named, packed, "beside"),
        write_mlx(folder / "plain", source.config, plain, "beside"),
    )


def precision(bits: int, group_size: int = 64) -> Settings:
    return {"bits": bits, "group_size": group_size}


LAYER, ATTENTION = "model.layers.0", "model.layers.1"
OVERRIDES: dict[str, Settings] = {
    "routers at 8 bits": {
        f"{layer}.mlp.{gate}": precision(8)
        for layer in (LAYER, ATTENTION)
        for gate in ("gate", "shared_expert_gate")
    },
    "a router apart from its shared gate": {f"{LAYER}.mlp.gate": precision(8)},
    "embeddings and output head at 6 bits": {
        "model.embed_tokens": precision(6),
        "lm_head": precision(6, 128),
    },
    "modules that stay plain": {
        "lm_head": False,
        f"{ATTENTION}.self_attn.k_proj": False,
        f"{LAYER}.linear_attn.in_proj_ba": False,
        f"{LAYER}.mlp.switch_mlp.down_proj": False,
    },
    "a module named without change": {"lm_head": True},
    "gate and up of the experts apart": {f"{LAYER}.mlp.switch_mlp.up_proj": precision(8)},
    "experts in other groups": {
        f"{ATTENTION}.mlp.switch_mlp.{name}_proj": precision(3, 32) for name in ("gate", "up", "down")
    },
    "equal bits in other groups": {
        module: precision(4, 32)
        for module in (
            f"{LAYER}.mlp.switch_mlp.up_proj",
            f"{LAYER}.linear_attn.in_proj_ba",
            f"{ATTENTION}.mlp.shared_expert.up_proj",
            f"{ATTENTION}.self_attn.k_proj",
        )
    },
    "the shared expert at other bits": {
        f"{LAYER}.mlp.shared_expert.{name}_proj": precision(8, 32) for name in ("gate", "up", "down")
    },
    "gate and up of the shared expert apart": {f"{LAYER}.mlp.shared_expert.gate_proj": precision(5)},
    "attention projections apart": {
        f"{ATTENTION}.self_attn.q_proj": precision(5),
        f"{ATTENTION}.self_attn.v_proj": precision(2, 32),
        f"{ATTENTION}.self_attn.o_proj": precision(8, 128),
    },
    "recurrent projections apart": {
        f"{LAYER}.linear_attn.in_proj_ba": precision(8),
        f"{LAYER}.linear_attn.out_proj": precision(6, 32),
    },
    "the MTP head at other bits": {
        "mtp.fc": precision(8),
        "mtp.layers.0.mlp.gate": precision(8),
        "mtp.layers.0.mlp.switch_mlp.up_proj": precision(3),
    },
}


class TestQuantised:
    def check(self, folders: tuple[Path, Path]) -> None:
        """The packed model computes what its weights stand for, trunk and MTP head, whichever way it multiplies."""
        packed, plain = map(load, folders)
        for tokens in (FEW, MANY):
            QUANTIZED_VS_DEQUANTIZED.check(logits(packed, tokens), logits(plain, tokens), "logits")
        QUANTIZED_VS_DEQUANTIZED.check(drafts(packed), drafts(plain), "MTP logits")

    @pytest.mark.parametrize("group_size", [32, 64, 128])
    @pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
    def test_every_precision_computes_with_what_its_weights_stand_for(
        self, bits: int, group_size: int, tmp_path: Path
    ) -> None:
        self.check(quantised_pair(tmp_path, precision(bits, group_size)))

    @pytest.mark.parametrize("override", OVERRIDES)
    def test_each_module_has_the_precision_that_the_configuration_names(
        self, override: str, tmp_path: Path
    ) -> None:
        self.check(quantised_pair(tmp_path, precision(4) | OVERRIDES[override]))

    def test_dense_layers_and_tied_embeddings_may_be_packed_too(self, tmp_path: Path) -> None:
        config = WIDE | {"mlp_only_layers": [0], "tie_word_embeddings": True, "attention_bias": True}
        self.check(quantised_pair(tmp_path, precision(4), config))


class TestWhatMlxLmWrites:
    @pytest.mark.parametrize("recipe", [None, "mixed_3_6"])
    def test_its_conversions_load_and_give_its_logits(self, recipe: str | None, tmp_path: Path) -> None:
        from mlx_lm import convert

        # With an MTP head, which mlx-lm leaves out, and the dtype that it converts to.
        published = write_hf_checkpoint(tmp_path / "published", WIDE | {"torch_dtype": "bfloat16"})
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(embedded_model() / file, published)
        folder = tmp_path / "converted"
        convert(str(published), str(folder), quantize=True, q_bits=4, q_group_size=32, quant_predicate=recipe)
        MLX_LM_FP32.check(logits(load(folder)), mlx_lm_logits(folder, MANY), "logits")


# Layers large beside all else, as in the real model, and shared experts that join the experts' stack.
BULKY = FULL_SHAPE | {
    "vocab_size": 512,
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "head_dim": 64,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "num_experts": 64,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 256,
    "shared_expert_intermediate_size": 256,
}


def packed_bulk(folder: Path) -> Path:
    checkpoint = SyntheticCheckpoint.make(BULKY)
    return write_mlx(folder, checkpoint.config, checkpoint.arrays(checkpoint.tensors))


def plain_bulk(folder: Path) -> Path:
    return write_hf_checkpoint(
        folder, BULKY | {"num_hidden_layers": 3, "full_attention_interval": 3, "num_experts": 10}
    )


class TestMemory:
    @pytest.mark.parametrize(("write", "layers"), [(packed_bulk, 1.0), (plain_bulk, 2.0)])
    def test_loading_frees_what_it_fuses(
        self, write: Callable[[Path], Path], layers: float, tmp_path: Path
    ) -> None:
        """At no time is more held than the finished model and, beside it, this many of its largest layer."""
        folder = write(tmp_path / "bulky")
        gc.collect()
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        model, _ = load_model(folder)
        held_bytes = mx.get_active_memory() - before
        assert held_bytes == pytest.approx(_bytes(model), rel=0.01)
        assert mx.get_peak_memory() - before <= held_bytes + layers * max(map(_bytes, model.layers))

    def test_progress_counts_the_layers_that_are_in_memory(self, tmp_path: Path) -> None:
        folder = packed_bulk(tmp_path / "bulky")
        gc.collect()
        before = mx.get_active_memory()
        seen: list[tuple[int, int, int]] = []
        load_model(folder, lambda done, total: seen.append((done, total, mx.get_active_memory() - before)))
        assert [(done, total) for done, total, _ in seen] == [(n + 1, 6) for n in range(6)]
        assert all(later > earlier for (*_, earlier), (*_, later) in pairwise(seen))


def _bytes(module: Any) -> int:
    arrays = (array for _, array in tree_flatten(module.parameters()))
    return sum(array.nbytes for array in arrays if isinstance(array, mx.array))


def test_a_model_needs_no_tokenizer(tmp_path: Path) -> None:
    model, config = load_model(write_hf_checkpoint(tmp_path))
    assert isinstance(model, Model)
    assert config.vocab_size == model(FEW).shape[-1]
