"""The layer-by-layer evaluation finds what the whole models would show, and holds a layer at a time."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from builders import TINY, mlx_tensors, write_hf_checkpoint, write_mlx_checkpoint
from mlx.utils import tree_flatten
from tolerances import EVALUATED

from demo.cases import cases
from mlx_qnext import load_model
from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.errors import CheckpointError, UsageError
from mlx_qnext.hub import embedded_model
from mlx_qnext.model.qwen3_next import Model
from mlx_qnext.tokenizer import Tokenizer
from quantize import metrics
from quantize.evaluate import Quality, evaluate

# Lengths in no order, two of them twice, one without anything to predict.
DOCUMENTS = [
    [(7 * n + n * n + seed) % 96 for n in range(length)] for seed, length in enumerate((19, 2, 40, 1, 19, 3))
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model as published, and quantised to 3 bits."""
    folder = tmp_path_factory.mktemp("pair")
    source = write_hf_checkpoint(folder / "source")
    return source, write_mlx_checkpoint(folder / "quantised", bits=3, mtp="beside")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(embedded_model())


@pytest.fixture(scope="module")
def chats(tokenizer: Tokenizer) -> list[list[int]]:
    """What the embedded model has learned to say."""
    asked = [
        case
        for thinking in (True, False)
        for case in cases(1, thinking, frozenset({"add", "clock", "compare"}))
    ]
    return [
        tokenizer.encode(
            tokenizer.render(
                [turn.message() for turn in case.chat.turns],
                list(case.chat.tools) or None,
                generation_prompt=False,
            )
        )
        for case in asked
    ]


def log_softmax(logits: mx.array) -> np.ndarray:
    wide = np.array(logits, dtype=np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def says(model: Model, document: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
    """Log-probabilities at every position, and whether the MTP head agrees with the trunk, where there is one."""
    tokens = mx.array([document])
    hidden = model.hidden(tokens)
    logits = model.logits(hidden)
    if model.mtp is None:
        return log_softmax(logits[0]), None
    drafts = mx.argmax(model.logits(model.mtp(hidden[:, :-1], tokens[:, 1:])), axis=-1)
    return log_softmax(logits[0]), np.array(drafts == mx.argmax(logits, axis=-1)[:, 1:])[0]


def directly(
    source: Path, quantised: Path, documents: list[list[int]], contexts: list[int] | None = None
) -> Quality:
    """The same from whole models and whole logits, one document after another."""
    models = [load_model(folder)[0] for folder in (source, quantised)]
    kl, same, surprise, agreed = [], [], ([], []), ([], [])
    for document, context in zip(documents, contexts or [1] * len(documents), strict=True):
        if len(document) < 2:
            continue
        said = [says(model, document) for model in models]
        (p, _), (q, _) = said
        known = slice(max(context, 1) - 1, -1)
        kl.append((np.exp(p) * (p - q)).sum(axis=-1)[known])
        same.append((p.argmax(axis=-1) == q.argmax(axis=-1))[known])
        for index, (logs, agrees) in enumerate(said):
            surprise[index].append(-logs[np.arange(len(document) - 1), document[1:]][max(context, 1) - 1 :])
            agreed[index].append(None if agrees is None else agrees[max(context - 2, 0) :])
    rates = [None if each[0] is None else float(np.concatenate(each).mean()) for each in agreed]
    perplexities = [float(np.exp(np.concatenate(each).mean())) for each in surprise]
    divergence = np.concatenate(kl)
    return Quality(
        tokens=divergence.size,
        kl=float(divergence.mean()),
        kl_p99=float(np.percentile(divergence, 99)),
        same_top=float(np.concatenate(same).mean()),
        perplexity=perplexities[1],
        source_perplexity=perplexities[0],
        mtp_agreement=rates[1],
        source_mtp_agreement=rates[0],
    )


def check(actual: Quality, expected: Quality) -> None:
    assert actual.tokens == expected.tokens
    assert (actual.mtp_agreement is None) == (expected.mtp_agreement is None)
    assert (actual.source_mtp_agreement is None) == (expected.source_mtp_agreement is None)
    for name, value in vars(expected).items():
        if value is not None:
            EVALUATED.check(np.array(getattr(actual, name)), np.array(value), name)


class TestWholeModels:
    def test_every_figure_is_that_of_whole_models_and_whole_logits(self, pair: tuple[Path, Path]) -> None:
        expected = directly(*pair, DOCUMENTS)
        assert expected.kl > 1e-3
        assert expected.same_top < 1
        check(evaluate(*pair, DOCUMENTS), expected)

    def test_what_is_context_is_read_and_not_judged(self, pair: tuple[Path, Path]) -> None:
        contexts = [0, 1, 30, 0, 7, 2]
        expected = directly(*pair, DOCUMENTS, contexts)
        assert expected.tokens == 18 + 1 + 10 + 12 + 1
        check(evaluate(*pair, DOCUMENTS, contexts=contexts), expected)

    def test_it_does_not_matter_how_many_logits_are_held_at_once(
        self, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = evaluate(*pair, DOCUMENTS)
        monkeypatch.setattr(metrics, "_LOGITS", 7 * TINY["vocab_size"])
        check(evaluate(*pair, DOCUMENTS), whole)

    @pytest.mark.parametrize("mtp", ["none", "beside"])
    def test_tied_and_dense_models_and_those_without_mtp_head_are_evaluated_too(
        self, mtp: Any, tmp_path: Path
    ) -> None:
        config = {"tie_word_embeddings": True, "mlp_only_layers": [1], "attention_bias": True}
        source = write_hf_checkpoint(tmp_path / "source", config, mtp=mtp != "none")
        quantised = write_mlx_checkpoint(tmp_path / "quantised", config, mtp=mtp)
        quality = evaluate(source, quantised, DOCUMENTS)
        assert (quality.mtp_agreement is None) == (mtp == "none")
        check(quality, directly(source, quantised, DOCUMENTS))

    def test_only_the_model_that_lacks_an_mtp_head_has_no_agreement(
        self, pair: tuple[Path, Path], tmp_path: Path
    ) -> None:
        without = write_mlx_checkpoint(tmp_path / "without", mtp="none")
        quality = evaluate(pair[0], without, DOCUMENTS)
        assert quality.mtp_agreement is None
        assert quality.source_mtp_agreement is not None

    def test_the_divergence_is_the_sources_from_the_quantised(self, pair: tuple[Path, Path]) -> None:
        there, back = evaluate(*pair, DOCUMENTS), evaluate(pair[1], pair[0], DOCUMENTS)
        assert there.kl != pytest.approx(back.kl, rel=1e-3)
        assert (there.perplexity, there.mtp_agreement) == (back.source_perplexity, back.source_mtp_agreement)


class TestEmbeddedModel:
    def test_against_itself_nothing_is_lost(self, bf16_checkpoint: Path, chats: list[list[int]]) -> None:
        quality = evaluate(bf16_checkpoint, bf16_checkpoint, chats[:2])
        assert (quality.kl, quality.kl_p99, quality.same_top) == (0, 0, 1)
        assert quality.perplexity == quality.source_perplexity
        assert quality.mtp_agreement == quality.source_mtp_agreement

    @pytest.mark.slow
    def test_its_figures_are_those_of_whole_models(
        self, bf16_checkpoint: Path, chats: list[list[int]]
    ) -> None:
        folders, contexts = (bf16_checkpoint, embedded_model()), [20, 0, 33]
        expected = directly(*folders, chats[:3], contexts)
        assert expected.mtp_agreement is not None
        assert 0.3 < expected.mtp_agreement < 1
        check(evaluate(*folders, chats[:3], contexts=contexts), expected)

    @pytest.mark.slow
    def test_more_bits_lose_less(self, bf16_checkpoint: Path, chats: list[list[int]], tmp_path: Path) -> None:
        found = [
            evaluate(bf16_checkpoint, packed(bf16_checkpoint, tmp_path / str(bits), bits), chats)
            for bits in (3, 4, 8)
        ]
        assert found[0].kl > 3 * found[1].kl > 9 * found[2].kl > 0
        assert found[0].same_top < found[2].same_top
        assert all(each.source_perplexity == found[0].source_perplexity for each in found)


def packed(source: Path, folder: Path, bits: int) -> Path:
    """The source in MLX layout, every matrix at these bits in groups of 64, its MTP head inside."""
    tensors: dict[str, mx.array] = {}
    for name, array in mlx_tensors(source).items():
        if array.ndim < 2 or ".conv1d." in name:
            tensors[name] = array
            continue
        parts = mx.quantize(array, group_size=64, bits=bits)
        names = (name.removesuffix("weight") + kind for kind in ("weight", "scales", "biases"))
        tensors |= dict(zip(names, parts, strict=True))
    folder.mkdir()
    config = json.loads((source / "config.json").read_text())
    settings = {"group_size": 64, "bits": bits}
    (folder / "config.json").write_text(json.dumps(config | {"quantization": settings}))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, {"format": "mlx"})
    return folder


# Layers large beside all else, as in the real model.
BULKY = TINY | {
    "hidden_size": 512,
    "head_dim": 64,
    "num_experts": 24,
    "moe_intermediate_size": 256,
    "shared_expert_intermediate_size": 256,
}


def array_bytes(module: Any) -> int:
    arrays = (array for _, array in tree_flatten(module.parameters()))
    return sum(array.nbytes for array in arrays if isinstance(array, mx.array))


@pytest.mark.slow
def test_a_layer_is_held_at_a_time(tmp_path: Path) -> None:
    """Once it has passed, nothing of it is held; while it is read, itself and what its experts are joined from."""
    source = write_hf_checkpoint(tmp_path / "source", BULKY)
    quantised = write_mlx_checkpoint(tmp_path / "quantised", BULKY, mtp="inside")
    layer_bytes = max(map(array_bytes, load_model(source)[0].layers))
    gc.collect()
    before_bytes = mx.get_active_memory()
    mx.reset_peak_memory()
    held_bytes: list[int] = []
    documents = [document[:6] for document in DOCUMENTS]
    evaluate(
        source, quantised, documents, lambda *_: held_bytes.append(mx.get_active_memory() - before_bytes)
    )
    # Reading alone would take 2.6 layers if MLX freed nothing before the end.
    assert mx.get_peak_memory() - before_bytes < 2.45 * layer_bytes
    heads = [held_bytes.pop(2 * BULKY["num_hidden_layers"] + 1), held_bytes.pop(BULKY["num_hidden_layers"])]
    assert max(heads) < 1.1 * layer_bytes
    assert max(held_bytes) < 0.05 * layer_bytes


def test_steps_are_counted_to_the_end(pair: tuple[Path, Path]) -> None:
    seen: list[tuple[int, int]] = []
    evaluate(*pair, DOCUMENTS, lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert {total for _, total in seen} == {len(seen)}


class TestRefusals:
    def check(self, error: type[Exception], said: str, source: Path, quantised: Path, documents: Any) -> None:
        with pytest.raises(error, match=said):
            evaluate(source, quantised, documents)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("vocab_size", 128), ("num_hidden_layers", 3), ("rope_theta", 2.0), ("norm_topk_prob", False)],
    )
    def test_two_models_are_not_compared(
        self, field: str, value: Any, pair: tuple[Path, Path], tmp_path: Path
    ) -> None:
        other = write_hf_checkpoint(tmp_path, {field: value})
        self.check(UsageError, f"{field} = .* expected one model", pair[0], other, DOCUMENTS)

    def test_what_changes_no_weight_may_differ(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        other = write_hf_checkpoint(tmp_path, {"eos_token_id": [2, 3], "max_position_embeddings": 1024})
        assert evaluate(pair[0], other, DOCUMENTS).kl == 0

    def test_tokens_of_another_vocabulary(self, pair: tuple[Path, Path]) -> None:
        self.check(UsageError, "token 96, and the models have 96", *pair, [[1, 96]])

    @pytest.mark.parametrize("documents", [[], [[5]], [[], [7]]])
    def test_documents_that_predict_nothing(self, documents: Any, pair: tuple[Path, Path]) -> None:
        self.check(UsageError, "no document of two tokens", *pair, documents)

    def test_documents_that_are_all_context(self, pair: tuple[Path, Path]) -> None:
        with pytest.raises(UsageError, match="no document of two tokens"):
            evaluate(*pair, [[1, 2, 3]], contexts=[3])

    def test_tensors_that_are_missing_or_too_many_before_a_layer_is_read(
        self, pair: tuple[Path, Path], tmp_path: Path
    ) -> None:
        shutil.copytree(pair[1], tmp_path, dirs_exist_ok=True)
        tensors = Checkpoint.open(tmp_path).arrays(Checkpoint.open(tmp_path).tensors)
        mtp = {name: tensor for name, tensor in tensors.items() if name.startswith("mtp.")}
        mx.save_safetensors(
            str(tmp_path / "mtp.safetensors"), mtp | {"mtp.extra": mx.zeros(3)}, {"format": "mlx"}
        )
        with pytest.raises(CheckpointError, match=r"mtp\.extra"):
            evaluate(pair[0], tmp_path, DOCUMENTS, lambda *_: pytest.fail("a layer was read"))

    def test_weights_that_are_not_finite(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        shutil.copytree(pair[0], tmp_path, dirs_exist_ok=True)
        tensors = Checkpoint.open(tmp_path).arrays(Checkpoint.open(tmp_path).tensors)
        tensors["model.norm.weight"] = mx.full((TINY["hidden_size"],), float("nan"))
        mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors, {"format": "pt"})
        self.check(CheckpointError, "not finite", tmp_path, pair[1], DOCUMENTS)
