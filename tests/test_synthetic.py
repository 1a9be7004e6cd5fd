"""A synthetic checkpoint on the disk is the one that is made in memory, and what could not be finished is not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import tokenizers

from benchmarks import random_weights, synthetic_folder
from benchmarks.random_weights import RandomWeights
from benchmarks.shape import FULL_SHAPE, modules
from benchmarks.synthetic import SyntheticCheckpoint
from benchmarks.synthetic_folder import write_folder
from mlx_qnext import load_model
from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.errors import OutputError, UsageError
from mlx_qnext.hub import embedded_model
from mlx_qnext.tokenizer import Tokenizer
from quantize.output_files import OutputWriter

TINY = FULL_SHAPE | {
    "num_hidden_layers": 4,
    "vocab_size": 512,
    "hidden_size": 128,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
}
UP = "model.layers.0.mlp.switch_mlp.up_proj"
ROUTER = "model.layers.0.mlp.gate"
# Small, so that tensors and files are of several.
PIECE_BYTES, SHARD_BYTES = 4096, 200_000
TOKENS = mx.array([[3, 141, 59, 265, 35, 89, 79, 323]])


def weights(**settings: Any) -> RandomWeights:
    return RandomWeights(modules(TINY, mtp=True), **settings)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("synthetic") / "model"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(synthetic_folder, "SHARD_BYTES", SHARD_BYTES)
        patched.setattr(random_weights, "PIECE_BYTES", PIECE_BYTES)
        write_folder(folder, TINY, weights())
    return Checkpoint.open(folder)


def arrays(checkpoint: Checkpoint, *names: str) -> list[np.ndarray]:
    loaded = checkpoint.arrays(names)
    return [
        np.array(loaded[name].astype(mx.float32) if loaded[name].dtype == mx.bfloat16 else loaded[name])
        for name in names
    ]


def test_the_folder_holds_the_tensors_of_the_checkpoint_in_memory(written: Checkpoint) -> None:
    made = SyntheticCheckpoint.make(TINY, mtp=True)
    assert written.config == made.config
    assert written.layout == written.mtp_layout == "mlx"
    assert {name: (t.dtype, t.shape, t.nbytes) for name, t in written.tensors.items()} == {
        name: (t.dtype, t.shape, t.nbytes) for name, t in made.tensors.items()
    }
    assert len({tensor.file for tensor in written.tensors.values()}) > 3


def test_it_loads_and_tells_tokens_apart(written: Checkpoint) -> None:
    model = load_model(written.folder)[0]
    assert model.mtp is not None
    hidden = np.array(model.hidden(TOKENS, model.make_cache()))[0]
    assert np.isfinite(hidden).all()
    unit = hidden / np.linalg.norm(hidden, axis=-1, keepdims=True)
    assert (unit @ unit.T - np.eye(len(unit))).max() < 0.9


def test_no_two_experts_share_weights_or_scales(written: Checkpoint) -> None:
    for part in arrays(written, f"{UP}.weight", f"{UP}.scales"):
        assert len(np.unique(part.reshape(TINY["num_experts"], -1), axis=0)) == TINY["num_experts"]


def test_biases_put_the_middle_of_each_group_at_zero(written: Checkpoint) -> None:
    scales, biases = arrays(written, f"{UP}.scales", f"{UP}.biases")
    np.testing.assert_allclose(biases, -7.5 * scales, rtol=2**-8)


def test_every_piece_of_a_tensor_is_new(written: Checkpoint) -> None:
    words = arrays(written, "lm_head.weight")[0].reshape(-1, PIECE_BYTES // 4)
    assert len(words) > 2
    assert len(np.unique(words, axis=0)) == len(words)


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(
    written: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_weights, "PIECE_BYTES", PIECE_BYTES)
    for name, seed in {"same": 0, "other": 1}.items():
        write_folder(tmp_path / name, TINY, weights(seed=seed))
    first, again, others = (
        arrays(checkpoint, f"{UP}.weight")[0]
        for checkpoint in (written, Checkpoint.open(tmp_path / "same"), Checkpoint.open(tmp_path / "other"))
    )
    assert (first == again).all()
    assert (first != others).mean() > 0.99


def test_skew_makes_some_rows_of_a_router_longer_than_others(written: Checkpoint, tmp_path: Path) -> None:
    write_folder(tmp_path / "skewed", TINY, weights(skew=0.5))
    plain, skewed = (
        arrays(checkpoint, f"{ROUTER}.scales")[0].mean(axis=1)
        for checkpoint in (written, Checkpoint.open(tmp_path / "skewed"))
    )
    assert plain.max() / plain.min() < 2
    assert skewed.max() / skewed.min() > 3


def test_it_is_a_chat_model_where_it_is_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the embedded model's vocabulary in the place of Qwen's, which takes seconds to make."""
    from tests import qwen_vocabulary

    small = tokenizers.Tokenizer.from_file(str(embedded_model() / "tokenizer.json"))
    monkeypatch.setattr(qwen_vocabulary, "qwen_vocabulary", lambda: small)
    write_folder(tmp_path / "model", TINY, weights(), chat=True)
    tokenizer = Tokenizer.from_folder(tmp_path / "model")
    assert tokenizer.render([{"role": "user", "content": "Hi"}]) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    defaults = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert defaults["eos_token_id"] == [151645, 151643]


def test_a_disk_without_room_is_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9, 100_000))
    with pytest.raises(OutputError, match=r"model needs 0\.\d GB, and 0\.0 GB are free: free some space"):
        write_folder(tmp_path / "model", TINY, weights())
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = OutputWriter.write

    def failing(self: OutputWriter, tensor: str, *place: Any, **row: Any) -> None:
        if tensor == "lm_head.weight":
            raise OSError(5, "Input/output error")
        plain(self, tensor, *place, **row)

    monkeypatch.setattr(OutputWriter, "write", failing)
    with pytest.raises(OutputError, match="Input/output error"):
        write_folder(tmp_path / "model", TINY, weights())
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(UsageError, match="exists"):
        write_folder(tmp_path / "model", TINY, weights())
