"""Whatever is wrong with a source or a destination is one sentence, and nothing half-made is taken for whole."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from builders import write_hf_checkpoint, write_mlx_checkpoint
from fp8_builder import write_fp8_checkpoint
from quantizing import quantize
from spoiling import Spoil, cut_in_data, edit, remove, retensor, truncate, write

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.errors import CheckpointError, OutputError, QnextError, UnsupportedModelError, UsageError
from mlx_qnext.quantization import Precision
from quantize.recipe import Recipe, Rule
from quantize.recipe_file import find_recipe

RECIPE = find_recipe("4bit").with_group_size(32)
EXPERT = "model.layers.0.mlp.experts.2.up_proj.weight"


def put(name: str, value: float) -> Spoil:
    """Overwrite one weight of a tensor."""

    def change(tensors: dict[str, mx.array]) -> None:
        flat = tensors[name].reshape(-1)
        flat[-1] = value
        tensors[name] = flat.reshape(tensors[name].shape)

    return retensor(change)


def drop(name: str) -> Spoil:
    return retensor(lambda tensors: tensors.pop(name))


def reshape(name: str, *shape: int) -> Spoil:
    return retensor(lambda tensors: tensors.update({name: mx.zeros(shape, mx.bfloat16)}))


BEFORE: dict[str, tuple[Spoil, type[QnextError], str]] = {
    "another architecture": (edit("config.json", model_type="llama"), UnsupportedModelError, "llama"),
    "no weights": (remove("model.safetensors"), CheckpointError, "safetensors"),
    "pickled weights alone": (
        lambda f: (remove("model.safetensors")(f), write("pytorch_model.bin", b"x")(f)),
        UnsupportedModelError,
        "pytorch_model.bin",
    ),
    "a truncated shard": (cut_in_data(100), CheckpointError, "model.safetensors"),
    "half a header": (truncate("model.safetensors", 100), CheckpointError, "model.safetensors"),
    "an expert missing": (drop(EXPERT), CheckpointError, "lacks number 2"),
    "a projection missing": (drop("model.layers.3.self_attn.k_proj.weight"), CheckpointError, "k_proj"),
    "a tensor too many": (
        retensor(lambda t: t.update({"model.layers.9.extra.weight": mx.zeros((64, 64))})),
        CheckpointError,
        "model.layers.9.extra",
    ),
    "an expert of another shape": (reshape(EXPERT, 32, 64), CheckpointError, "one shape"),
    "a matrix of another width": (reshape("lm_head.weight", 96, 128), CheckpointError, "lm_head"),
    "integers": (
        retensor(lambda t: t.update({"lm_head.weight": t["lm_head.weight"].astype(mx.int32)})),
        UnsupportedModelError,
        "I32",
    ),
    "another program's quantisation": (
        edit("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        UnsupportedModelError,
        "gptq",
    ),
}


@pytest.mark.parametrize("row", BEFORE)
def test_a_source_that_cannot_be_converted_is_refused_before_anything_is_written(
    row: str, tmp_path: Path
) -> None:
    spoil, kind, phrase = BEFORE[row]
    source = write_hf_checkpoint(tmp_path / "model")
    spoil(source)
    refused(lambda: quantize(source, tmp_path / "out", RECIPE), kind, phrase)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def refused(act: Callable[[], object], kind: type[QnextError], phrase: str) -> None:
    with pytest.raises(kind) as caught:
        act()
    sentence = str(caught.value)
    assert phrase in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", [EXPERT, "model.layers.0.linear_attn.A_log", "model.norm.weight", "lm_head.weight"]
)
def test_a_weight_that_is_no_number_is_named(name: str, value: float, tmp_path: Path) -> None:
    source = write_hf_checkpoint(tmp_path / "model")
    put(name, value)(source)
    refused(
        lambda: quantize(source, tmp_path / "out", RECIPE), CheckpointError, f"infinite weight in '{name}'"
    )
    assert not (tmp_path / "out").exists()


def test_a_weight_that_is_no_number_is_named_where_it_is_kept(tmp_path: Path) -> None:
    source = write_hf_checkpoint(tmp_path / "model")
    put(EXPERT, float("nan"))(source)
    plain = Recipe("plain", "", Precision(4, 32), (Rule(("*",), None),))
    refused(lambda: quantize(source, tmp_path / "out", plain), CheckpointError, EXPERT)


def test_a_model_that_is_quantised_is_not_quantised_again(tmp_path: Path) -> None:
    source = write_mlx_checkpoint(tmp_path / "model")
    refused(
        lambda: quantize(source, tmp_path / "out", RECIPE),
        UnsupportedModelError,
        f"qnext chat --model {source}",
    )


def test_fp8_without_its_scale_is_refused(tmp_path: Path) -> None:
    source, _ = write_fp8_checkpoint(tmp_path / "model")
    scale = next(name for name in Checkpoint.open(source).tensors if name.endswith("_scale_inv"))
    path = source / "model.safetensors"
    path.write_bytes(
        path.read_bytes().replace(scale.encode(), scale.replace("scale_inv", "scale_out").encode())
    )
    refused(lambda: quantize(source, tmp_path / "out", RECIPE), CheckpointError, "no block scales")


def test_a_scale_without_its_weight_is_refused(tmp_path: Path) -> None:
    source = write_hf_checkpoint(tmp_path / "model")
    retensor(lambda t: t.update({"lm_tail.weight_scale_inv": mx.zeros((1, 1))}))(source)
    refused(lambda: quantize(source, tmp_path / "out", RECIPE), CheckpointError, "no weight for it")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf_checkpoint(tmp_path_factory.mktemp("source") / "model")


class TestDestination:
    @pytest.mark.parametrize("is_folder", [True, False])
    def test_what_exists_is_never_overwritten(self, is_folder: bool, source: Path, tmp_path: Path) -> None:
        dest = tmp_path / "out"
        if is_folder:
            dest.mkdir()
        precious = dest / "precious" if is_folder else dest
        precious.write_text("mine")
        refused(lambda: quantize(source, dest, RECIPE), UsageError, "not an empty folder")
        assert precious.read_text() == "mine"
        assert {path.name for path in tmp_path.iterdir()} == {"out"}

    def test_it_is_not_inside_the_source(self, source: Path) -> None:
        before = set(source.iterdir())
        refused(lambda: quantize(source, source / "quantised" / "4bit", RECIPE), UsageError, "is inside")
        assert set(source.iterdir()) == before

    def test_it_is_not_under_a_file(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        refused(
            lambda: quantize(source, tmp_path / "file" / "out", RECIPE), OutputError, "name another folder"
        )

    def test_a_folder_that_may_not_be_written_is_said_to_be_one(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def denied(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", denied)
        refused(lambda: quantize(source, tmp_path / "out", RECIPE), OutputError, "permissions")

    def test_a_disk_that_is_too_small_is_told_with_numbers(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = namedtuple("usage", "total used free")(10**9, 10**9 - 1000, 1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        refused(lambda: quantize(source, tmp_path / "out", RECIPE), OutputError, "0.0 GB are free")
        assert not list(tmp_path.iterdir())


class TestAddedHead:
    def test_a_model_that_has_one_needs_none(self, tmp_path: Path) -> None:
        target = write_mlx_checkpoint(tmp_path / "target", mtp="beside")
        donor = write_hf_checkpoint(tmp_path / "donor")
        refused(
            lambda: quantize(target, tmp_path / "out", None, mtp_from=donor),
            UsageError,
            "has an MTP head already",
        )

    def test_one_that_is_not_quantised_takes_another_command(self, tmp_path: Path) -> None:
        target = write_hf_checkpoint(tmp_path / "target", mtp=False)
        donor = write_hf_checkpoint(tmp_path / "donor")
        refused(
            lambda: quantize(target, tmp_path / "out", None, mtp_from=donor),
            UsageError,
            f"qnext quantize {target} DEST",
        )

    def test_a_donor_without_head_gives_none(self, tmp_path: Path) -> None:
        target = write_mlx_checkpoint(tmp_path / "target")
        donor = write_hf_checkpoint(tmp_path / "donor", mtp=False)
        refused(
            lambda: quantize(target, tmp_path / "out", None, mtp_from=donor), UsageError, "has no MTP head"
        )

    def test_a_head_of_another_model_does_not_fit(self, tmp_path: Path) -> None:
        target = write_mlx_checkpoint(tmp_path / "target")
        donor = write_hf_checkpoint(tmp_path / "donor", {"num_experts": 8})
        refused(
            lambda: quantize(target, tmp_path / "out", None, mtp_from=donor), UsageError, "num_experts = 8"
        )

    def test_the_destination_is_not_inside_the_donor(self, tmp_path: Path) -> None:
        target = write_mlx_checkpoint(tmp_path / "target")
        donor = write_hf_checkpoint(tmp_path / "donor")
        before = set(donor.iterdir())
        refused(lambda: quantize(target, donor / "out", None, mtp_from=donor), UsageError, "is inside")
        assert set(donor.iterdir()) == before

    def test_a_donor_that_is_quantised_gives_none(self, tmp_path: Path) -> None:
        target = write_mlx_checkpoint(tmp_path / "target")
        donor = write_mlx_checkpoint(tmp_path / "donor", mtp="beside")
        refused(
            lambda: quantize(target, tmp_path / "out", None, mtp_from=donor),
            UnsupportedModelError,
            "quantised already",
        )
