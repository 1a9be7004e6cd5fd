"""A folder that `qnext quantize` made can be told from one that changed since."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.errors import CheckpointError, QnextError, UsageError
from mlx_qnext.hub import embedded_model
from quantize.manifest import FILE, read_manifest, verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(embedded_model(), tmp_path / "model"))


def ignore(*_: object) -> None:
    pass


def test_what_did_not_change_is_verified_to_its_last_tensor(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    tensors = Checkpoint.open(folder).tensors
    assert verify(folder, lambda done, total: told.append((done, total))) == len(tensors)
    total_bytes = sum(tensor.nbytes for tensor in tensors.values())
    assert told[-1] == (total_bytes, total_bytes)
    assert told == sorted(told)


def test_it_says_what_it_was_made_from(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert (manifest.source, manifest.recipe) == ("checkpoint", "4bit")
    assert 0.08 < manifest.loss["mtp.fc"] < 0.1


def flip(folder: Path) -> None:
    """One bit of one weight."""
    tensor = Checkpoint.open(folder).tensors["model.layers.5.mlp.switch_mlp.up_proj.weight"]
    with tensor.file.open("r+b") as file:
        file.seek(tensor.start + 1000)
        byte = file.read(1)[0]
        file.seek(tensor.start + 1000)
        file.write(bytes([byte ^ 1]))


def add(folder: Path) -> None:
    tensors = mx.load(str(folder / "mtp.safetensors"))
    assert isinstance(tensors, dict)
    mx.eval(tensors)
    mx.save_safetensors(
        str(folder / "mtp.safetensors"), tensors | {"mtp.extra": mx.zeros((3,))}, {"format": "mlx"}
    )


def edit(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        manifest = json.loads((folder / FILE).read_text())
        (folder / FILE).write_text(json.dumps(manifest | changes))

    return change


CHANGES: dict[str, tuple[Callable[[Path], object], type[QnextError], str]] = {
    "a bit of a weight": (flip, CheckpointError, "model.layers.5.mlp.switch_mlp.up_proj.weight"),
    "a tensor too many": (add, CheckpointError, "does not name 'mtp.extra'"),
    "a file missing": (lambda f: (f / "mtp.safetensors").unlink(), CheckpointError, "lacks 'mtp."),
    "another configuration": (lambda f: (f / "config.json").write_text("{}"), CheckpointError, "config.json"),
    "a template missing": (
        lambda f: (f / "chat_template.jinja").unlink(),
        CheckpointError,
        "chat_template.jinja",
    ),
    "no manifest": (lambda f: (f / FILE).unlink(), UsageError, "nothing to verify"),
    "a manifest that is not JSON": (lambda f: (f / FILE).write_text("{"), CheckpointError, "not valid JSON"),
    "a manifest of another format": (edit(format=2), CheckpointError, "format = 2"),
    "a digest that is none": (edit(tensors={"mtp.fc.weight": 3}), CheckpointError, "mtp.fc.weight = 3"),
    "a file elsewhere": (edit(files={"../secret": "00"}), CheckpointError, "../secret"),
}


@pytest.mark.parametrize("row", CHANGES)
def test_what_changed_is_named(row: str, folder: Path) -> None:
    change, kind, phrase = CHANGES[row]
    change(folder)
    with pytest.raises(kind) as caught:
        verify(folder, ignore)
    assert phrase in str(caught.value)
