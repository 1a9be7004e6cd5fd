"""What a quantised model lost against its source, on a machine that could hold neither.

Both models read the same documents, one layer after another: a layer is read, all documents pass it, and it is dropped before
the next one is read. The source goes through all its layers before the quantised model starts. In lock step the two would
need the same memory, because only hidden states outlive a layer, and would read two checkpoints at once for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from math import isfinite
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.config import ModelConfig
from mlx_qnext.errors import CheckpointError, UsageError
from mlx_qnext.mlx_lm_parts import create_attention_mask
from mlx_qnext.model.layers import AttentionLayer, RecurrentLayer
from mlx_qnext.model.loading import M, Parts, assemble, read
from mlx_qnext.ops.device import Backend, backend
from quantize.metrics import Reader, Scores, compare, joined

OnProgress = Callable[[int, int], None]

# Documents of equal length pass a layer together, so that an expert's weights are read once for many tokens.
_BATCH_TOKENS = 2048


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
    *,
    contexts: Sequence[int] | None = None,
) -> Quality:
    """Compare two checkpoints of one model over `documents`, each a sequence of tokens read from its own beginning.

    At no time is more held than one layer of one model with what it is made of, embeddings and heads, and hidden states.
    Documents of a single token predict nothing and are left out.

    Args:
        on_progress: called with steps done and total; a layer of one model is a step.
        contexts: for each document, how many tokens at its beginning are read and not judged; `None` judges all. A model that
            learned answers alone knows nothing of questions.

    Raises:
        CheckpointError, UnsupportedModelError: a checkpoint is damaged or of another kind, or its logits are not finite.
        UsageError: the two are not of one model, or a document is not of its vocabulary.
    """
    models = [assemble(Checkpoint.open(folder)) for folder in (source, quantised)]
    _check_alike(models[0].config, models[1].config, source, quantised)
    batches = _batches(documents, contexts or [0] * len(documents), models[0].config.vocab_size)
    steps = _Steps(sum(map(_steps, models)) + len(batches), on_progress)
    first = _walk(models.pop(0), batches, steps)
    second = _walk(models.pop(0), batches, steps)
    quality = _compare(first, second, batches, steps)
    if not isfinite(quality.kl):
        raise CheckpointError(
            f"{source} or {quantised} gives logits that are not finite: its weights are damaged; download or convert it again."
        )
    return quality


@dataclass(frozen=True)
class _Batch:
    """Documents of one length.

    Attributes:
        tokens: `[B, T]`. judged: `[B, T + 1]`, whether what models say of a token counts, the one after the last included.
    """

    tokens: mx.array
    judged: NDArray[np.bool_]


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


def _walk(parts: Parts, batches: Sequence[_Batch], steps: _Steps) -> _Walked:
    """Take all documents through the model; its layers are gone afterwards."""
    read(parts.embed_tokens)
    hidden = _evaluated([parts.embed_tokens(batch.tokens) for batch in batches])
    while parts.layers:
        hidden = _pass(_read_thriftily(parts.layers.pop(0)), hidden)
        steps.advance()
    hidden = _evaluated([parts.norm(states) for states in hidden])
    drafted = None
    if parts.mtp is not None:
        head = _read_thriftily(parts.mtp)
        pairs = zip(hidden, batches, strict=True)
        drafted = _evaluated([head(states[:, :-1], batch.tokens[:, 1:]) for states, batch in pairs])
        steps.advance()
    head = parts.lm_head if parts.lm_head is not None else parts.embed_tokens.as_linear
    return _Walked(Reader(head, parts.config.vocab_size), hidden, drafted)


def _pass(layer: AttentionLayer | RecurrentLayer, hidden: list[mx.array]) -> list[mx.array]:
    """The states after one layer, each document starting from nothing."""
    return _evaluated([_through(layer, states) for states in hidden])


def _through(layer: AttentionLayer | RecurrentLayer, x: mx.array) -> mx.array:
    if isinstance(layer, RecurrentLayer):
        return layer.feed(layer.mix(x, layer.mixer.empty_state(x.shape[0], x.dtype))[0])
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

    Published checkpoints have a tensor for every expert. Joining 512 of them takes 2.7 times a layer's size where each step's
    input is kept until all steps are queued. Above the limit MLX queues nothing before earlier work is done, and it takes 2.0.
    """
    limit_bytes = mx.set_memory_limit(1)
    try:
        yield
    finally:
        mx.set_memory_limit(limit_bytes)


def _compare(source: _Walked, quantised: _Walked, batches: Sequence[_Batch], steps: _Steps) -> Quality:
    pieces: list[Scores] = []
    for *states, batch in zip(source.hidden, quantised.hidden, batches, strict=True):
        scores = compare(source.reader, quantised.reader, states, batch.tokens)
        pieces.append(scores.where(batch.judged[:, 1:-1].flatten()))
        steps.advance()
    scores = joined(pieces)
    return Quality(
        tokens=len(scores.kl),
        kl=float(np.mean(scores.kl)),
        kl_p99=float(np.percentile(scores.kl, 99)),
        same_top=float(np.mean(scores.same_top)),
        perplexity=float(np.exp(np.mean(scores.surprise))),
        source_perplexity=float(np.exp(np.mean(scores.source_surprise))),
        mtp_agreement=_mtp_agreement(quantised, batches),
        source_mtp_agreement=_mtp_agreement(source, batches),
    )


def _mtp_agreement(model: _Walked, batches: Sequence[_Batch]) -> float | None:
    if model.drafted is None:
        return None
    agreed: list[NDArray[np.bool_]] = []
    for drafted, hidden, batch in zip(model.drafted, model.hidden, batches, strict=True):
        # The draft at t and the trunk at t + 1 speak of the same token, t + 2.
        agrees = model.reader.likeliest(drafted) == model.reader.likeliest(hidden)[:, 1:]
        agreed.append(agrees[batch.judged[:, 2:]])
    return float(np.mean(np.concatenate(agreed)))


def _batches(documents: Sequence[Sequence[int]], contexts: Sequence[int], vocabulary: int) -> list[_Batch]:
    """Documents of one length together: padding would reach the recurrent state."""
    pairs = zip(documents, contexts, strict=True)
    kept = sorted(((d, c) for d, c in pairs if len(d) > max(1, c)), key=lambda pair: len(pair[0]))
    if not kept:
        raise UsageError("There is no document of two tokens or more to evaluate on: give a longer text.")
    largest = max(max(document) for document, _ in kept)
    if largest >= vocabulary:
        raise UsageError(
            f"A document holds token {largest}, and the models have {vocabulary}: use their own tokenizer."
        )
    batches: list[_Batch] = []
    for length, group in groupby(kept, key=lambda pair: len(pair[0])):
        alike, size = list(group), max(1, _BATCH_TOKENS // length)
        batches += [_batch(alike[start : start + size]) for start in range(0, len(alike), size)]
    return batches


def _batch(pairs: Sequence[tuple[Sequence[int], int]]) -> _Batch:
    tokens = mx.array([list(document) for document, _ in pairs])
    places = np.arange(tokens.shape[1] + 1)
    return _Batch(tokens, np.array([places >= context for _, context in pairs]))


def _check_alike(first: ModelConfig, second: ModelConfig, source: Path, quantised: Path) -> None:
    name = first.first_difference(second)
    if name is not None:
        raise UsageError(
            f"{source} has {name} = {getattr(first, name)} and {quantised} has {getattr(second, name)}, expected one model: "
            "name the checkpoint that was quantised."
        )
