"""What a quantised model lost against its source, on a machine that could hold neither.

Both models read the same documents, one layer after another: a layer is read, all documents pass it, and it is dropped before
the next one is read. The source goes through all its layers before the quantised model starts. In lock step the two would
need the same memory, because only hidden states outlive a layer, and would read two checkpoints at once for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import groupby
from math import isfinite
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.config import ModelConfig
from mlx_qnext.errors import CheckpointError, UsageError
from mlx_qnext.mlx_lm_parts import create_attention_mask
from mlx_qnext.model.layers import AttentionLayer, RecurrentLayer
from mlx_qnext.model.loading import M, Parts, assemble, read
from mlx_qnext.ops.device import Backend, backend
from quantize.metrics import Reader, Scores, agreement, compare, joined

OnProgress = Callable[[int, int], None]

# Documents of equal length pass a layer together, so that an expert's weights are read once for many tokens.
_BATCH_TOKENS = 2048

# These may differ between a source and what was made of it: they change no weight's meaning.
NOT_ARCHITECTURE = frozenset({"eos_token_ids", "max_position_embeddings", "rope_scaling"})


@dataclass(frozen=True)
class Quality:
    """How a quantised model differs from its source on some text.

    Attributes:
        tokens: predicted tokens that were compared.
        kl: mean KL(source ‖ quantised) per token over the whole vocabulary, in nats; kl_p99: its 99th percentile.
        same_top: share of tokens where both find the same token likeliest.
        perplexity, source_perplexity: exp of the mean negative log-likelihood of the text.
        mtp_agreement, source_mtp_agreement: share of positions t where a model's MTP head predicts the token at t + 2 that its
            own trunk predicts from t + 1; `None` without such a head.
    """

    tokens: int
    kl: float
    kl_p99: float
    same_top: float
    perplexity: float
    source_perplexity: float
    mtp_agreement: float | None
    source_mtp_agreement: float | None


def evaluate(
    source: Path,
    quantised: Path,
    documents: Sequence[Sequence[int]],
    on_progress: OnProgress | None = None,
) -> Quality:
    """Compare two checkpoints of one model over `documents`, each a sequence of tokens read from its own beginning.

    At no time is more held than one layer of one model with what it is made of, embeddings and heads, and hidden states.
    Documents of a single token predict nothing and are left out.

    Args:
        on_progress: called with steps done and total; a layer of one model is a step.

    Raises:
        CheckpointError, UnsupportedModelError: a checkpoint is damaged or of another kind, or its logits are not finite.
        UsageError: the two are not of one model, or a document is not of its vocabulary.
    """
    models = [assemble(Checkpoint.open(folder)) for folder in (source, quantised)]
    _check_alike(models[0].config, models[1].config, source, quantised)
    batches = _batches(documents, models[0].config.vocab_size)
    steps = _Steps(sum(map(_steps, models)) + len(batches), on_progress)
    first = _walk(models.pop(0), batches, steps)
    second = _walk(models.pop(0), batches, steps)
    quality = _compare(first, second, batches, steps)
    if not isfinite(quality.kl + quality.perplexity + quality.source_perplexity):
        raise CheckpointError(
            f"{source} or {quantised} gives logits that are not finite: its weights are damaged; download or convert it again."
        )
    return quality


@dataclass(frozen=True)
class _Walked:
    """What is left of a model whose layers have passed.

    Attributes:
        hidden: states after the final norm, `[B, T, hidden]` for each batch.
        drafted: those of the MTP head, `[B, T - 1, hidden]`; `None` without such a head.
    """

    reader: Reader
    hidden: list[mx.array]
    drafted: list[mx.array] | None


class _Steps:
    """Counts what is done and tells the listener."""

    def __init__(self, total: int, on_progress: OnProgress | None) -> None:
        self._done, self._total, self._on_progress = 0, total, on_progress

    def advance(self) -> None:
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)


def _steps(parts: Parts) -> int:
    return len(parts.layers) + (parts.mtp is not None)


def _walk(parts: Parts, batches: Sequence[mx.array], steps: _Steps) -> _Walked:
    """Take all documents through the model; its layers are gone afterwards."""
    read(parts.embed_tokens)
    hidden = _evaluated([parts.embed_tokens(batch) for batch in batches])
    while parts.layers:
        hidden = _pass(_read_thriftily(parts.layers.pop(0)), hidden)
        steps.advance()
    hidden = _evaluated([parts.norm(states) for states in hidden])
    drafted = None
    if parts.mtp is not None:
        head = _read_thriftily(parts.mtp)
        drafted = _evaluated(
            [head(h[:, :-1], tokens[:, 1:]) for h, tokens in zip(hidden, batches, strict=True)]
        )
        steps.advance()
    head = parts.lm_head if parts.lm_head is not None else parts.embed_tokens.as_linear
    return _Walked(Reader(head, parts.config.vocab_size), hidden, drafted)


def _pass(layer: AttentionLayer | RecurrentLayer, hidden: list[mx.array]) -> list[mx.array]:
    """The states after one layer, each document starting from nothing."""
    return _evaluated([_through(layer, states) for states in hidden])


def _through(layer: AttentionLayer | RecurrentLayer, x: mx.array) -> mx.array:
    if isinstance(layer, RecurrentLayer):
        return layer(x, layer.mixer.empty_state(x.shape[0], x.dtype))[0]
    return layer(x, create_attention_mask(x, None), None)


def _evaluated(arrays: list[mx.array]) -> list[mx.array]:
    """The arrays, computed one after another, so that only one needs workspace at a time."""
    for array in arrays:
        mx.eval(array)
    # The next layer's parts are of other sizes than this one's workspace; Metal would keep both.
    if backend() is Backend.METAL:
        mx.clear_cache()
    return arrays


def _read_thriftily(module: M) -> M:
    with _freeing_at_once():
        return read(module)


@contextmanager
def _freeing_at_once() -> Iterator[None]:
    """Make MLX wait for memory that is about to be free, instead of taking more.

    Published checkpoints have a tensor for every expert. Joining those takes three copies of a layer where each step's input is
    kept until all steps are queued, and above the limit MLX queues nothing before earlier work is done.
    """
    limit_bytes = mx.set_memory_limit(1)
    try:
        yield
    finally:
        mx.set_memory_limit(limit_bytes)


def _compare(source: _Walked, quantised: _Walked, batches: Sequence[mx.array], steps: _Steps) -> Quality:
    pieces: list[Scores] = []
    for *states, tokens in zip(source.hidden, quantised.hidden, batches, strict=True):
        pieces.append(compare(source.reader, quantised.reader, states, tokens))
        steps.advance()
    scores = joined(pieces)
    return Quality(
        tokens=len(scores.kl),
        kl=float(np.mean(scores.kl)),
        kl_p99=float(np.percentile(scores.kl, 99)),
        same_top=float(np.mean(scores.same_top)),
        perplexity=float(np.exp(np.mean(scores.surprise))),
        source_perplexity=float(np.exp(np.mean(scores.source_surprise))),
        mtp_agreement=_mtp_agreement(quantised),
        source_mtp_agreement=_mtp_agreement(source),
    )


def _mtp_agreement(model: _Walked) -> float | None:
    if model.drafted is None:
        return None
    drafts, trunk = (
        [model.reader.likeliest(batch) for batch in states] for states in (model.drafted, model.hidden)
    )
    return agreement(drafts, trunk)


def _batches(documents: Sequence[Sequence[int]], vocabulary: int) -> list[mx.array]:
    """Token ids `[B, T]`: documents of one length together, because padding would reach the recurrent state."""
    kept = sorted((document for document in documents if len(document) > 1), key=len)
    if not kept:
        raise UsageError("There is no document of two tokens or more to evaluate on: give a longer text.")
    largest = max(max(document) for document in kept)
    if largest >= vocabulary:
        raise UsageError(
            f"A document holds token {largest}, and the models have {vocabulary}: use their own tokenizer."
        )
    batches: list[mx.array] = []
    for length, group in groupby(kept, key=len):
        alike, size = [list(document) for document in group], max(1, _BATCH_TOKENS // length)
        batches += [mx.array(alike[start : start + size]) for start in range(0, len(alike), size)]
    return batches


def _check_alike(first: ModelConfig, second: ModelConfig, source: Path, quantised: Path) -> None:
    for name in (field.name for field in fields(ModelConfig) if field.name not in NOT_ARCHITECTURE):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            raise UsageError(
                f"{source} has {name} = {one} and {quantised} has {other}, expected one model: name the checkpoint that was "
                "quantised."
            )
