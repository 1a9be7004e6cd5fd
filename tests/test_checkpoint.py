"""Checkpoints on disk: what opens, how it is told apart, and what damage is caught before any data is read."""

from __future__ import annotations

import json
import shutil
import struct
import tracemalloc
from pathlib import Path

import mlx.core as mx
import pytest
from builders import TINY, tensor_shapes, write_hf_checkpoint, write_mlx_checkpoint
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.config import ModelConfig, Precision
from mlx_qnext.errors import CheckpointError, ModelNotFoundError, QnextError, UnsupportedModelError
from mlx_qnext.safetensors_header import read_header
from mlx_qnext.sizes import bytes_by_part, count_parameters, part_of, precisions_by_part

DENSE = {"num_experts": 0, "num_experts_per_tok": 0}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    """An HF checkpoint in three shards; tests that damage it take a copy."""
    return write_hf_checkpoint(tmp_path_factory.mktemp("hf") / "sharded", shards=3)


@pytest.fixture
def damaged(sharded, tmp_path) -> Path:
    return Path(shutil.copytree(sharded, tmp_path / "damaged"))


def file_of(header: dict, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


class TestWhatOpens:
    def test_every_tensor_is_found_with_its_shape_in_its_shard(self, sharded):
        checkpoint = Checkpoint.open(sharded)
        shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
        assert shapes == tensor_shapes(ModelConfig.from_dict(checkpoint.config))
        index = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
        assert {name: tensor.file.name for name, tensor in checkpoint.tensors.items()} == index
        assert set(checkpoint.metadata) == set(index.values())

    def test_the_byte_ranges_hold_the_tensors_own_bytes(self, sharded):
        checkpoint = Checkpoint.open(sharded)
        names = ["model.norm.weight", "model.layers.0.mlp.experts.3.down_proj.weight", "mtp.fc.weight"]
        for name, array in checkpoint.arrays(names).items():
            tensor = checkpoint.tensors[name]
            with tensor.file.open("rb") as file:
                file.seek(tensor.start)
                data = file.read(tensor.nbytes)
            assert data == bytes(memoryview(array.view(mx.uint8)))

    def test_arrays_are_those_asked_for_and_no_others(self, sharded):
        checkpoint = Checkpoint.open(sharded)
        arrays = checkpoint.arrays(["lm_head.weight", "mtp.norm.weight"])
        assert {name: array.shape for name, array in arrays.items()} == {
            "lm_head.weight": (96, 64),
            "mtp.norm.weight": (64,),
        }

    def test_one_file_needs_no_index(self, tmp_path):
        assert Checkpoint.open(write_hf_checkpoint(tmp_path)).layout == "hf"

    def test_opening_reads_no_tensor_data(self, tmp_path):
        folder = write_hf_checkpoint(tmp_path)
        size = (folder / "model.safetensors").stat().st_size
        tracemalloc.start()
        Checkpoint.open(folder)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < size / 2


class TestLayout:
    def test_unfused_experts_are_the_hf_layout(self, sharded):
        checkpoint = Checkpoint.open(sharded)
        assert (checkpoint.layout, checkpoint.mtp_layout, checkpoint.has_mtp) == ("hf", "hf", True)

    @pytest.mark.parametrize(("mtp", "layout"), [("none", None), ("inside", "mlx"), ("beside", "mlx")])
    def test_stacked_experts_are_the_mlx_layout_wherever_the_mtp_head_lies(self, tmp_path, mtp, layout):
        checkpoint = Checkpoint.open(write_mlx_checkpoint(tmp_path, mtp=mtp))
        assert (checkpoint.layout, checkpoint.mtp_layout, checkpoint.has_mtp) == (
            "mlx",
            layout,
            layout is not None,
        )
        assert (tmp_path / "mtp.safetensors").exists() == (mtp == "beside")

    def test_an_hf_mtp_head_beside_an_mlx_trunk_keeps_its_own_layout(self, tmp_path):
        folder = write_mlx_checkpoint(tmp_path / "mlx")
        other = Checkpoint.open(write_hf_checkpoint(tmp_path / "hf"))
        head = other.arrays(name for name in other.tensors if name.startswith("mtp."))
        mx.save_safetensors(str(folder / "mtp.safetensors"), head)
        checkpoint = Checkpoint.open(folder)
        assert (checkpoint.layout, checkpoint.mtp_layout) == ("mlx", "hf")

    def test_dense_models_are_told_apart_by_their_convolutions(self, tmp_path):
        assert Checkpoint.open(write_hf_checkpoint(tmp_path / "hf", DENSE)).layout == "hf"
        assert Checkpoint.open(write_mlx_checkpoint(tmp_path / "mlx", DENSE)).layout == "mlx"

    @pytest.mark.parametrize("layer_type", ["full_attention", "linear_attention"])
    def test_where_shapes_tell_nothing_the_files_marker_does(self, tmp_path, layer_type):
        dense = DENSE | {"linear_conv_kernel_dim": 1, "layer_types": [layer_type] * 4}
        assert Checkpoint.open(write_hf_checkpoint(tmp_path / "hf", dense)).layout == "hf"
        assert Checkpoint.open(write_mlx_checkpoint(tmp_path / "mlx", dense)).layout == "mlx"

    def test_a_mixture_of_layouts_is_refused(self, tmp_path):
        folder = write_mlx_checkpoint(tmp_path)
        mx.save_safetensors(
            str(folder / "model-2.safetensors"),
            {"model.layers.0.mlp.experts.0.up_proj.weight": mx.zeros((2, 2))},
        )
        with pytest.raises(CheckpointError, match="two layouts"):
            Checkpoint.open(folder)

    def test_fused_hf_experts_are_refused_by_name(self, tmp_path):
        folder = write_hf_checkpoint(tmp_path)
        mx.save_safetensors(
            str(folder / "model-2.safetensors"), {"model.layers.0.mlp.experts.gate_up_proj": mx.zeros((2, 2))}
        )
        with pytest.raises(UnsupportedModelError, match="gate_up_proj"):
            Checkpoint.open(folder)


class TestPrecision:
    def test_each_modules_precision_is_that_of_its_files(self, tmp_path):
        checkpoint = Checkpoint.open(write_mlx_checkpoint(tmp_path, bits=3, group_size=64))
        assert checkpoint.precision_of("model.layers.0.mlp.switch_mlp.up_proj") == Precision(3, 64)
        assert checkpoint.precision_of("model.layers.0.mlp.gate") == Precision(8, 64)
        assert checkpoint.precision_of("model.norm") is None

    @pytest.mark.parametrize("change", [{"bits": 6}, {"group_size": 64}, {"lm_head": False}])
    def test_a_configuration_that_the_shapes_contradict_is_refused(self, tmp_path, change):
        folder = write_mlx_checkpoint(tmp_path, bits=4, group_size=32)
        config = json.loads((folder / "config.json").read_text())
        config["quantization"] |= change
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match="lm_head"):
            Checkpoint.open(folder).precision_of("lm_head")

    def test_scales_without_any_quantisation_in_the_configuration_are_refused(self, tmp_path):
        folder = write_mlx_checkpoint(tmp_path)
        (folder / "config.json").write_text(json.dumps(TINY))
        with pytest.raises(CheckpointError, match=r"lm_head has scales"):
            Checkpoint.open(folder).precision_of("lm_head")

    @pytest.mark.parametrize("dtype", ["F8_E4M3", "I8", "F64"])
    def test_dtypes_that_are_not_computed_with_open_and_are_refused_on_loading(self, tmp_path, dtype):
        (tmp_path / "config.json").write_text(json.dumps(TINY))
        nbytes = 16 if dtype == "F64" else 2
        header = file_of({"lm_head.weight": entry(dtype, [2], [0, nbytes])}, bytes(nbytes))
        (tmp_path / "model.safetensors").write_bytes(header)
        checkpoint = Checkpoint.open(tmp_path)
        with pytest.raises(UnsupportedModelError, match=rf"lm_head\.weight' as {dtype}"):
            checkpoint.arrays(["lm_head.weight"])


class TestSizes:
    @pytest.mark.parametrize(
        ("name", "part"),
        [
            ("model.layers.0.mlp.experts.7.up_proj.weight", "experts"),
            ("model.layers.0.mlp.switch_mlp.up_proj.scales", "experts"),
            ("model.layers.0.mlp.shared_expert.up_proj.weight", "other"),
            ("model.layers.0.mlp.shared_expert_gate.weight", "other"),
            ("model.layers.0.mlp.gate.weight", "other"),
            ("model.layers.3.self_attn.q_proj.weight", "attention"),
            ("model.layers.0.linear_attn.A_log", "recurrent"),
            ("model.embed_tokens.weight", "embeddings"),
            ("lm_head.weight", "embeddings"),
            ("mtp.layers.0.mlp.experts.0.up_proj.weight", "mtp"),
            ("mtp.layers.0.self_attn.q_proj.weight", "mtp"),
            ("model.norm.weight", "other"),
        ],
    )
    def test_every_tensor_belongs_to_one_part(self, name, part):
        assert part_of(name) == part

    def test_the_parts_add_up_to_all_bytes(self, sharded):
        checkpoint = Checkpoint.open(sharded)
        total = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
        assert sum(bytes_by_part(checkpoint).values()) == total
        assert total == sum(2 * mx.zeros(tensor.shape).size for tensor in checkpoint.tensors.values())

    def test_parameters_are_counted_alike_in_every_precision_and_layout(self, sharded, tmp_path):
        expected = count_parameters(Checkpoint.open(sharded), ModelConfig.from_dict(TINY))
        for bits, group_size in [(2, 32), (3, 64), (5, 32), (6, 64), (8, 32)]:
            folder = tmp_path / f"{bits}-{group_size}"
            checkpoint = Checkpoint.open(
                write_mlx_checkpoint(folder, bits=bits, group_size=group_size, mtp="beside")
            )
            assert count_parameters(checkpoint, ModelConfig.from_dict(TINY)) == expected

    def test_active_parameters_are_those_that_one_token_meets(self, sharded):
        config = ModelConfig.from_dict(TINY)
        shapes = {name: mx.zeros(shape).size for name, shape in tensor_shapes(config).items()}
        experts = sum(size for name, size in shapes.items() if part_of(name) == "experts")
        mtp = sum(size for name, size in shapes.items() if part_of(name) == "mtp")
        total = sum(shapes.values())
        counted = count_parameters(Checkpoint.open(sharded), config)
        assert counted.total == total
        assert counted.active == total - mtp - experts + experts * 2 // 4 - 96 * 64

    def test_a_tied_embedding_is_multiplied_with_and_counts(self, tmp_path):
        tied = {"tie_word_embeddings": True}
        checkpoint = Checkpoint.open(write_hf_checkpoint(tmp_path / "tied", tied, mtp=False))
        untied = Checkpoint.open(write_hf_checkpoint(tmp_path / "untied", mtp=False))
        active = count_parameters(untied, ModelConfig.from_dict(TINY)).active
        assert count_parameters(checkpoint, ModelConfig.from_dict(TINY | tied)).active == active

    def test_precisions_are_named_part_by_part(self, tmp_path):
        parts = precisions_by_part(Checkpoint.open(write_mlx_checkpoint(tmp_path)))
        assert parts["experts"] == parts["attention"] == parts["recurrent"] == ("4-bit g32",)
        assert parts["other"] == ("4-bit g32", "8-bit g32")
        assert parts["mtp"] == ()


class TestFolders:
    def test_no_such_folder(self, tmp_path):
        with pytest.raises(ModelNotFoundError, match="does not exist"):
            Checkpoint.open(tmp_path / "nowhere")

    def test_a_file_is_no_folder(self, tmp_path):
        (tmp_path / "model.safetensors").write_bytes(b"")
        with pytest.raises(CheckpointError, match="is a file, expected the folder"):
            Checkpoint.open(tmp_path / "model.safetensors")

    def test_an_empty_folder_lacks_its_configuration(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"has no config\.json"):
            Checkpoint.open(tmp_path)

    def test_a_folder_without_weights(self, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps(TINY))
        with pytest.raises(CheckpointError, match=r"has no model\*\.safetensors"):
            Checkpoint.open(tmp_path)

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model-Q4_K_M.gguf", "weights.npz"])
    def test_other_formats_are_refused_by_name(self, tmp_path, name):
        (tmp_path / "config.json").write_text(json.dumps(TINY))
        (tmp_path / name).write_bytes(b"\0" * 64)
        with pytest.raises(UnsupportedModelError, match=name):
            Checkpoint.open(tmp_path)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "not valid JSON"),
            (b"{", "not valid JSON"),
            (b"\xff\xfe{}", "not valid JSON"),
            (b"[]", "holds a list"),
            (b'"text"', "holds a str"),
            (b"[" * 200_000, "nested too deeply"),
            (b'{"a":' * 200_000, "nested too deeply"),
            (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
            (b'{"a": 1, "a": 2}', "the key 'a' twice"),
        ],
    )
    def test_a_configuration_that_is_no_json_object(self, tmp_path, content, said):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=said):
            Checkpoint.open(tmp_path)


class TestIndex:
    def change(self, folder: Path, change) -> None:
        path = folder / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        change(index)
        path.write_text(json.dumps(index))

    def test_a_missing_shard_is_named(self, damaged):
        (damaged / "model-00002-of-00003.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"lacks 'model-00002-of-00003\.safetensors'"):
            Checkpoint.open(damaged)

    def test_a_tensor_placed_in_the_wrong_shard_is_named(self, damaged):
        self.change(
            damaged,
            lambda index: index["weight_map"].update({"lm_head.weight": "model-00002-of-00003.safetensors"}),
        )
        with pytest.raises(CheckpointError, match=r"places 'lm_head\.weight'"):
            Checkpoint.open(damaged)

    def test_a_tensor_that_is_nowhere_is_named(self, damaged):
        self.change(
            damaged, lambda index: index["weight_map"].update({"ghost": "model-00001-of-00003.safetensors"})
        )
        with pytest.raises(CheckpointError, match="places 'ghost'"):
            Checkpoint.open(damaged)

    @pytest.mark.parametrize(
        "file",
        [
            "../outside.safetensors",
            "/etc/passwd",
            "sub/a.safetensors",
            "..",
            "",
            "model.bin",
            "a\0.safetensors",
        ],
    )
    def test_no_path_leads_out_of_the_folder(self, damaged, file):
        (damaged.parent / "outside.safetensors").write_bytes(file_of({}))
        self.change(damaged, lambda index: index["weight_map"].update({"lm_head.weight": file}))
        with pytest.raises(CheckpointError):
            Checkpoint.open(damaged)

    @pytest.mark.parametrize("weight_map", [None, [], {"lm_head.weight": 3}, "x"])
    def test_a_malformed_map_is_refused_or_empty(self, damaged, weight_map):
        self.change(damaged, lambda index: index.update(weight_map=weight_map))
        if weight_map is None:
            assert len(Checkpoint.open(damaged).tensors) > 0
        else:
            with pytest.raises(CheckpointError):
                Checkpoint.open(damaged)

    def test_one_tensor_in_two_files_is_refused(self, tmp_path):
        folder = write_hf_checkpoint(tmp_path)
        shutil.copy(folder / "model.safetensors", folder / "model-2.safetensors")
        with pytest.raises(CheckpointError, match="both in"):
            Checkpoint.open(folder)


class TestDamage:
    def test_a_shard_cut_anywhere_is_refused_and_named(self, damaged):
        path = damaged / "model-00001-of-00003.safetensors"
        whole = path.read_bytes()
        header_end = 8 + struct.unpack("<Q", whole[:8])[0]
        for length in [
            0,
            1,
            7,
            8,
            9,
            header_end // 2,
            header_end - 1,
            header_end,
            header_end + 1,
            len(whole) - 1,
        ]:
            path.write_bytes(whole[:length])
            with pytest.raises(CheckpointError, match=r"model-00001-of-00003\.safetensors"):
                Checkpoint.open(damaged)

    @pytest.mark.parametrize("length", [2**63, 2**64 - 1, 100_000_001, 10**9, 4096])
    def test_a_lying_header_length_allocates_nothing(self, tmp_path, length):
        path = tmp_path / "model.safetensors"
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        tracemalloc.start()
        with pytest.raises(CheckpointError, match=f"announces a header of {length} bytes"):
            read_header(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 1_000_000

    @pytest.mark.parametrize(
        ("tensors", "said"),
        [
            ({"a": entry("F33")}, "dtype 'F33'"),
            ({"a": entry(None)}, "dtype None"),
            ({"a": entry(["F32"])}, "dtype"),
            ({"a": entry(shape=[-1])}, "shape"),
            ({"a": entry(shape=[2.0])}, "shape"),
            ({"a": entry(shape=[True, 2])}, "shape"),
            ({"a": entry(shape="2")}, "shape"),
            ({"a": entry(shape=[1] * 9)}, "shape"),
            ({"a": entry(shape=[10**15])}, "shape"),
            ({"a": entry(shape=[2**40, 2**40])}, "8 bytes, and F32"),
            ({"a": entry(shape=[3])}, "8 bytes, and F32 of shape [3] takes 12"),
            ({"a": entry(offsets=[8, 0])}, "data_offsets"),
            ({"a": entry(offsets=[0])}, "data_offsets"),
            ({"a": entry(offsets=[0, 8, 8])}, "data_offsets"),
            ({"a": entry(offsets=[-8, 0])}, "data_offsets"),
            ({"a": entry(offsets=[0, "8"])}, "data_offsets"),
            ({"a": entry(), "b": entry()}, "overlaps"),
            ({"a": entry(), "b": entry(offsets=[4, 12])}, "overlaps"),
            ({"a": entry(offsets=[8, 16])}, "gap"),
            ({"a": entry(shape=[4], offsets=[0, 16])}, "cut short"),
            ({}, "describes only"),
            ({"a": []}, "expected dtype, shape and data_offsets"),
            ({"a": {}}, "dtype None"),
            ({"__metadata__": [], "a": entry()}, "metadata"),
            ({"__metadata__": {"format": 3}, "a": entry()}, "metadata"),
        ],
    )
    def test_a_header_that_contradicts_itself_says_how(self, tmp_path, tensors, said):
        path = tmp_path / "model.safetensors"
        path.write_bytes(file_of(tensors, bytes(8)))
        with pytest.raises(CheckpointError) as caught:
            read_header(path)
        assert said in str(caught.value)
        assert str(path) in str(caught.value)

    def test_a_sound_header_is_read_with_its_metadata_and_empty_tensors(self, tmp_path):
        path = tmp_path / "model.safetensors"
        tensors = {
            "__metadata__": {"format": "mlx"},
            "a": entry(),
            "none": entry(shape=[0, 5], offsets=[8, 8]),
        }
        path.write_bytes(file_of(tensors, bytes(8)))
        header = read_header(path)
        assert header.metadata == {"format": "mlx"}
        assert [(tensor.name, tensor.nbytes) for tensor in header.tensors] == [("a", 8), ("none", 0)]

    @settings(max_examples=200, deadline=None)
    @example(at=0, replacement=b"\xff" * 8)
    @given(at=st.integers(0, 400), replacement=st.binary(min_size=1, max_size=12))
    def test_no_corruption_escapes_as_another_exception(self, tmp_path_factory, at, replacement):
        path = tmp_path_factory.getbasetemp() / "corrupted.safetensors"
        sound = bytearray(
            file_of({"a": entry(), "b": entry(offsets=[8, 16]), "__metadata__": {"k": "v"}}, bytes(16))
        )
        sound[at : at + len(replacement)] = replacement
        path.write_bytes(sound)
        try:
            header = read_header(path)
        except QnextError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            assert sum(tensor.nbytes for tensor in header.tensors) <= len(sound)

    def test_a_missing_tensor_is_named(self, sharded):
        with pytest.raises(CheckpointError, match=r"has no tensor 'model\.layers\.9"):
            Checkpoint.open(sharded).arrays(["model.layers.9.mlp.gate.weight"])

    def test_a_file_that_changed_after_opening_is_refused(self, damaged):
        checkpoint = Checkpoint.open(damaged)
        file = checkpoint.tensors["lm_head.weight"].file
        file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(CheckpointError, match="changed while it was read"):
            checkpoint.arrays(["lm_head.weight"])
