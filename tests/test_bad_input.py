"""Whatever is wrong with a model or a request comes to the user as one sentence, and costs no memory to find out."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import mlx_qnext
from mlx_qnext.errors import (
    CheckpointError,
    ModelNotFoundError,
    QnextError,
    TokenizerError,
    UnsupportedModelError,
)
from mlx_qnext.hub import embedded_model

Spoil = Callable[[Path], object]


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A copy of the embedded model, to be spoilt."""
    return Path(shutil.copytree(embedded_model(), tmp_path / "model"))


def edit(file: str, **changes: object) -> Spoil:
    """Change keys of a JSON file; `...` removes one."""

    def spoil(folder: Path) -> None:
        content: dict[str, Any] = json.loads((folder / file).read_text())
        content.update(changes)
        kept = {key: value for key, value in content.items() if value is not ...}
        (folder / file).write_text(json.dumps(kept))

    return spoil


def write(file: str, content: str | bytes) -> Spoil:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(data)


def remove(*files: str) -> Spoil:
    return lambda folder: [(folder / file).unlink() for file in files]


def truncate(file: str, keep: int) -> Spoil:
    """Keep the first bytes; a negative number cuts that many off the end."""
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:keep])


def overwrite(file: str, at: int, data: bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        content = bytearray((folder / file).read_bytes())
        content[at : at + len(data)] = data
        (folder / file).write_bytes(content)

    return spoil


def retensor(change: Callable[[dict[str, mx.array]], object], file: str = "model.safetensors") -> Spoil:
    """Save the tensors anew after a change."""

    def spoil(folder: Path) -> None:
        tensors = mx.load(str(folder / file))
        assert isinstance(tensors, dict)
        mx.eval(tensors)
        change(tensors)
        (folder / file).unlink()
        mx.save_safetensors(str(folder / file), tensors, {"format": "mlx"})

    return spoil


def relabel_header(old: bytes, new: bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = path.read_bytes()
        assert old in content
        assert len(old) == len(new)
        path.write_bytes(content.replace(old, new, 1))

    return spoil


def replace_by_index(folder: Path) -> None:
    weight_map = {"model.norm.weight": "model-00001-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


GATE = "model.layers.0.mlp.gate"
NORM = "model.norm.weight"
PACKED = "lm_head.weight"

ROWS: dict[str, tuple[Spoil, type[QnextError], str]] = {
    "an empty folder": (lambda f: [p.unlink() for p in f.iterdir()], CheckpointError, "config.json"),
    "no config": (remove("config.json"), CheckpointError, "config.json"),
    "a config that is not JSON": (write("config.json", "{"), CheckpointError, "JSON"),
    "a config that is a list": (write("config.json", "[]"), CheckpointError, "object"),
    "a config nested too deep": (write("config.json", "[" * 200_000), CheckpointError, "config.json"),
    "another architecture": (edit("config.json", model_type="llama"), UnsupportedModelError, "llama"),
    "a field missing": (edit("config.json", hidden_size=...), CheckpointError, "hidden_size"),
    "no heads": (edit("config.json", num_attention_heads=0), CheckpointError, "num_attention_heads"),
    "a negative size": (edit("config.json", vocab_size=-1), CheckpointError, "vocab_size"),
    "an immense size": (edit("config.json", hidden_size=10**15), CheckpointError, "hidden_size"),
    "a size in words": (edit("config.json", hidden_size="lots"), CheckpointError, "hidden_size"),
    "a size that is true": (
        edit("config.json", num_hidden_layers=True),
        CheckpointError,
        "num_hidden_layers",
    ),
    "an epsilon that is no number": (
        edit("config.json", rms_norm_eps=float("nan")),
        CheckpointError,
        "rms_norm_eps",
    ),
    "heads that do not divide": (
        edit("config.json", linear_num_value_heads=7),
        CheckpointError,
        "linear_num_value_heads",
    ),
    "more experts a token than experts": (
        edit("config.json", num_experts_per_tok=99),
        CheckpointError,
        "num_experts_per_tok",
    ),
    "more layers than tensors": (edit("config.json", num_hidden_layers=9), CheckpointError, "layers.8"),
    "fewer layers than tensors": (
        edit("config.json", num_hidden_layers=7),
        CheckpointError,
        "does not describe",
    ),
    "another width than the tensors": (edit("config.json", hidden_size=512), CheckpointError, "calls for"),
    "no word of the quantisation": (
        edit("config.json", quantization=..., quantization_config=...),
        CheckpointError,
        "bits",
    ),
    "another mode of quantisation": (
        edit("config.json", quantization={"bits": 4, "group_size": 32, "mode": "mxfp4"}),
        UnsupportedModelError,
        "mxfp4",
    ),
    "another program's quantisation": (
        edit("config.json", quantization=..., quantization_config={"quant_method": "fp8"}),
        UnsupportedModelError,
        "fp8",
    ),
    "bits that the shapes deny": (
        edit("config.json", quantization={"bits": 8, "group_size": 64}),
        CheckpointError,
        "8 bits",
    ),
    "an index naming a missing shard": (replace_by_index, CheckpointError, "model-00001-of-00002"),
    "an index that is not JSON": (write("model.safetensors.index.json", "?"), CheckpointError, "index"),
    "weights of another format": (
        lambda f: [remove("model.safetensors", "mtp.safetensors")(f), write("pytorch_model.bin", b"x")(f)],
        UnsupportedModelError,
        "safetensors",
    ),
    "no weights": (remove("model.safetensors", "mtp.safetensors"), CheckpointError, "safetensors"),
    **{
        f"a file cut to {keep} bytes": (
            truncate("model.safetensors", keep),
            CheckpointError,
            "model.safetensors",
        )
        for keep in (0, 4, 8, 500, 200_000, -1)
    },
    "an MTP file cut short": (truncate("mtp.safetensors", -1), CheckpointError, "mtp.safetensors"),
    "a header of garbage": (overwrite("model.safetensors", 8, b"\xff" * 40), CheckpointError, "header"),
    "a header as long as the sea": (
        overwrite("model.safetensors", 0, b"\xff" * 8),
        CheckpointError,
        "header",
    ),
    "a header that lies about a size": (
        relabel_header(b"[4096,32]", b"[9999,32]"),
        CheckpointError,
        "[9999, 32]",
    ),
    "a tensor missing": (retensor(lambda t: t.pop(NORM)), CheckpointError, NORM),
    "a tensor too many": (
        retensor(lambda t: t.update({"model.extra.weight": mx.zeros(3)})),
        CheckpointError,
        "model.extra.weight",
    ),
    "a tensor of another shape": (
        retensor(lambda t: t.update({NORM: mx.zeros(255)})),
        CheckpointError,
        "[255]",
    ),
    "a tensor of whole numbers": (
        retensor(lambda t: t.update({NORM: mx.zeros(256, dtype=mx.int8)})),
        UnsupportedModelError,
        "I8",
    ),
    "packed weights that are not": (
        retensor(lambda t: t.update({PACKED: t[PACKED].astype(mx.float32)})),
        CheckpointError,
        PACKED.removesuffix(".weight"),
    ),
    "scales without their weight": (retensor(lambda t: t.pop(f"{GATE}.weight")), CheckpointError, GATE),
    "no tokenizer": (remove("tokenizer.json"), TokenizerError, "tokenizer.json"),
    "a broken tokenizer": (write("tokenizer.json", "{}"), TokenizerError, "tokenizer.json"),
    "a tokenizer of another model": (edit("config.json", vocab_size=4000), QnextError, "4000"),
    "a broken generation config": (
        write("generation_config.json", "nope"),
        CheckpointError,
        "generation_config",
    ),
    "an absurd temperature": (
        edit("generation_config.json", temperature=-3),
        CheckpointError,
        "temperature",
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_spoilt_model_is_refused_in_one_sentence(row: str, sound: Path) -> None:
    spoil, kind, phrase = ROWS[row]
    spoil(sound)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    tracemalloc.start()
    with pytest.raises(kind) as caught:
        mlx_qnext.load(sound)
    _, python_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    is_one_sentence(str(caught.value))
    assert phrase in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None or caught.value.__cause__
    # The files hold 12 MB, and no lying number makes it more.
    assert mx.get_peak_memory() - before < 32e6
    assert python_peak < 64e6


@pytest.mark.parametrize(
    ("name", "phrase"),
    [("/no/such/folder", "/no/such/folder"), ("thinking-4bits", "thinking-4bit"), ("a b c", "a b c")],
)
def test_a_model_that_does_not_exist_is_named(name: str, phrase: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        mlx_qnext.load(name)
    is_one_sentence(str(caught.value))
    assert phrase in str(caught.value)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(QnextError) as caught:
        mlx_qnext.load(file)
    is_one_sentence(str(caught.value))


TEMPLATES = {
    "missing": (None, "no chat template"),
    "not Jinja": ("{% if %}", "template"),
    "raising": ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    "leaving the sandbox": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "template"),
    "without end": ("{% for a in range(10**9) %}{{ a }}{% endfor %}", "template"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_fails_is_refused_in_one_sentence(name: str, sound: Path) -> None:
    text, phrase = TEMPLATES[name]
    edit("tokenizer_config.json", chat_template=...)(sound)
    remove("chat_template.jinja")(sound)
    if text is not None:
        write("chat_template.jinja", text)(sound)
    with pytest.raises(TokenizerError) as caught:
        mlx_qnext.load(sound).session().generate([{"role": "user", "content": "hi"}])
    is_one_sentence(str(caught.value))
    assert phrase in str(caught.value)


def is_one_sentence(message: str) -> None:
    assert "\n" not in message
    assert message.endswith(".")
    assert len(message) < 400
