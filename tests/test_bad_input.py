"""Whatever is wrong with a model or a request comes to the user as one sentence, and costs no memory to find out."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from builders import write_hf_checkpoint
from spoiling import (
    Spoil,
    append_tensor,
    cut_in_data,
    describe,
    edit,
    name_missing_shard,
    overwrite,
    reheader,
    remove,
    replace_weights,
    retensor,
    truncate,
    write,
)

import mlx_qnext
from mlx_qnext import Engine, GenerationConfig
from mlx_qnext.errors import (
    CheckpointError,
    ContextLengthError,
    MemoryLimitError,
    ModelNotFoundError,
    QnextError,
    TokenizerError,
    UnsupportedModelError,
    UsageError,
)
from mlx_qnext.hub import embedded_model


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A copy of the embedded model, to be spoilt."""
    return Path(shutil.copytree(embedded_model(), tmp_path / "model"))


GATE = "model.layers.0.mlp.gate"
NORM = "model.norm.weight"
PACKED = "lm_head.weight"
SCALES = "lm_head.scales"

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
    "a third program's quantisation": (
        edit("config.json", quantization=..., quantization_config={"quant_method": "gptq", "bits": 4}),
        UnsupportedModelError,
        "gptq",
    ),
    "bits that nobody packs": (
        edit("config.json", quantization={"bits": 7, "group_size": 64}),
        CheckpointError,
        "bits = 7",
    ),
    "bits that the shapes deny": (
        edit("config.json", quantization={"bits": 8, "group_size": 64}),
        CheckpointError,
        "8 bits",
    ),
    "an index naming a missing shard": (name_missing_shard, CheckpointError, "model-00001-of-00002"),
    "an index that is not JSON": (write("model.safetensors.index.json", "?"), CheckpointError, "index"),
    "pickled weights": (replace_weights("pytorch_model.bin"), UnsupportedModelError, "pytorch_model.bin"),
    "weights for another program": (replace_weights("m-Q4_K.gguf"), UnsupportedModelError, "m-Q4_K.gguf"),
    "no weights": (remove("model.safetensors", "mtp.safetensors"), CheckpointError, "safetensors"),
    **{
        f"a file cut to {keep} bytes": (
            truncate("model.safetensors", keep),
            CheckpointError,
            "model.safetensors",
        )
        for keep in (0, 4, 8, 500, -1)
    },
    "a file that ends with its header": (cut_in_data(0), CheckpointError, "cut short"),
    "a file that ends with its first byte of data": (cut_in_data(1), CheckpointError, "cut short"),
    "an MTP file cut short": (truncate("mtp.safetensors", -1), CheckpointError, "mtp.safetensors"),
    "a header of garbage": (overwrite("model.safetensors", 8, b"\xff" * 40), CheckpointError, "header"),
    "a header as long as the sea": (
        overwrite("model.safetensors", 0, b"\xff" * 8),
        CheckpointError,
        "header",
    ),
    "a header that lies about a shape": (
        describe(PACKED, shape=[1 << 40, 32]),
        CheckpointError,
        "[1099511627776, 32]",
    ),
    "a header that lies about offsets": (
        reheader(lambda h: h[PACKED].update(data_offsets=[at + 4 for at in h[PACKED]["data_offsets"]])),
        CheckpointError,
        "leaves a gap",
    ),
    "a dtype that does not exist": (describe(PACKED, dtype="F33"), CheckpointError, "F33"),
    "more weights than memory": (
        append_tensor("model.huge.weight", "F32", [1 << 40], 1 << 42),
        MemoryLimitError,
        "GB",
    ),
    "a tensor with an unprintable name": (
        append_tensor("a\n\x1b[31mb", "F32", [1], 4),
        CheckpointError,
        r"a\n\x1b[31mb",
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
    "a tensor of doubles": (append_tensor("model.extra.weight", "F64", [1], 8), UnsupportedModelError, "F64"),
    "a norm of packed integers": (
        retensor(lambda t: t.update({NORM: mx.zeros(256, dtype=mx.uint32)})),
        CheckpointError,
        "U32",
    ),
    "scales of packed integers": (
        retensor(lambda t: t.update({SCALES: t[SCALES].astype(mx.uint32)})),
        CheckpointError,
        SCALES,
    ),
    "packed weights that are not": (
        retensor(lambda t: t.update({PACKED: t[PACKED].astype(mx.bfloat16)})),
        CheckpointError,
        "BF16",
    ),
    "packed weights without scales": (retensor(lambda t: t.pop(SCALES)), CheckpointError, PACKED),
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
    # No weight is read before all is known to be sound, and no lying number is believed.
    assert mx.get_peak_memory() - before < 1e6
    assert python_peak < 16e6


def test_another_programs_quantisation_is_refused_by_name_however_plain_the_weights(tmp_path: Path) -> None:
    edit("config.json", quantization_config={"quant_method": "awq"})(write_hf_checkpoint(tmp_path))
    with pytest.raises(UnsupportedModelError, match="awq"):
        mlx_qnext.load_model(tmp_path)


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


QUESTION = [{"role": "user", "content": "hi"}]
REQUESTS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], type[QnextError], str]] = {
    "no messages": ([], {}, UsageError, "at least one message"),
    "a prompt longer than the context": (
        [{"role": "user", "content": "word " * 5000}],
        {},
        ContextLengthError,
        "context holds",
    ),
    "a message that is not text": ([{"role": "user", "content": b"hi"}], {}, TokenizerError, "bytes"),
    "half a surrogate pair": ([{"role": "user", "content": "\ud800"}], {}, TokenizerError, "Unicode"),
    "a negative temperature": (QUESTION, {"temperature": -0.1}, UsageError, "temperature"),
    "a temperature that is no number": (QUESTION, {"temperature": float("nan")}, UsageError, "temperature"),
    "an infinite temperature": (QUESTION, {"temperature": float("inf")}, UsageError, "temperature"),
    "a negative top-k": (QUESTION, {"top_k": -1}, UsageError, "top-k"),
    "a top-p of nothing": (QUESTION, {"top_p": 0.0}, UsageError, "top-p"),
    "a top-p above all": (QUESTION, {"top_p": 1.1}, UsageError, "top-p"),
    "a min-p of all": (QUESTION, {"min_p": 1.0}, UsageError, "min-p"),
    "no repetition penalty at all": (QUESTION, {"repetition_penalty": 0.0}, UsageError, "repetition penalty"),
    "an immense presence penalty": (QUESTION, {"presence_penalty": 1e9}, UsageError, "presence penalty"),
    "a negative seed": (QUESTION, {"seed": -1}, UsageError, "seed"),
    "no tokens at all": (QUESTION, {"max_tokens": 0}, UsageError, "max tokens"),
    "a stop string that is everywhere": (QUESTION, {"stop": ("",)}, UsageError, "stop string"),
}


@pytest.mark.parametrize("row", REQUESTS)
def test_a_request_that_cannot_be_meant_is_refused_in_one_sentence(row: str, engine: Engine) -> None:
    messages, settings, kind, phrase = REQUESTS[row]
    with pytest.raises(kind) as caught:
        engine.session().generate(messages, GenerationConfig(**settings))
    is_one_sentence(str(caught.value))
    assert phrase in str(caught.value)


@pytest.mark.parametrize(
    ("row", "exit_code"),
    [
        ("a config that is not JSON", 4),
        pytest.param("another architecture", 5, marks=pytest.mark.slow),
        pytest.param("a broken tokenizer", 6, marks=pytest.mark.slow),
        ("more weights than memory", 9),
    ],
)
def test_the_program_says_the_sentence_and_exits_with_its_code(row: str, exit_code: int, sound: Path) -> None:
    spoil, kind, phrase = ROWS[row]
    spoil(sound)
    ended = generate("hi", "--model", str(sound))
    assert ended.returncode == exit_code == kind.exit_code
    assert ended.stdout == ""
    assert ended.stderr.startswith("qnext: ")
    is_one_sentence(ended.stderr.removesuffix("\n"))
    assert phrase in ended.stderr


def test_the_program_refuses_a_prompt_that_the_context_cannot_hold() -> None:
    ended = generate("word " * 5000, "--model", "demo")
    assert (ended.returncode, ended.stdout) == (ContextLengthError.exit_code, "")
    # Progress stands before it where loading takes long.
    *_, sentence = ended.stderr.splitlines()
    assert sentence.startswith("qnext: ")
    assert "context holds" in sentence
    assert "Traceback" not in ended.stderr


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", "generate", *arguments]
    return subprocess.run(command, capture_output=True, cwd=Path(__file__).parent.parent, text=True)


def is_one_sentence(message: str) -> None:
    assert "\n" not in message
    assert message.endswith(".")
    assert len(message) < 400
