"""A model whose experts are read when they are routed to, to be held against the same model with all of them in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_qnext.cache.hybrid import HybridCache
from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.experts.files import WeightFiles
from mlx_qnext.experts.store import ExpertStore
from mlx_qnext.generate.checkpoints import Marks
from mlx_qnext.generate.prefill import prefill
from mlx_qnext.generate.timeline import Timeline
from mlx_qnext.model.loading import build_model
from mlx_qnext.model.moe import Experts, SparseMoe
from mlx_qnext.model.pooled_experts import PooledExperts
from mlx_qnext.model.qwen3_next import Model

DEMO = Path(__file__).parent.parent / "mlx_qnext" / "demo" / "weights"
MTP = "mtp.layers.0.mlp"


@dataclass(frozen=True)
class Pooled:
    """A model and the store that its experts are in."""

    model: Model
    store: ExpertStore


@contextmanager
def pooled(
    folder: Path, slots: int, files: Callable[[set[Path]], WeightFiles] = WeightFiles
) -> Iterator[Pooled]:
    """The model in `folder`, with as many slots in every pool."""
    checkpoint = Checkpoint.open(folder)
    paths = {tensor.file for tensor in checkpoint.tensors.values()}
    store = ExpertStore(files(paths), defaultdict(lambda: slots))
    try:
        yield Pooled(build_model(checkpoint, store=store)[0], store)
    finally:
        store.close()


def resident(folder: Path) -> Model:
    return build_model(Checkpoint.open(folder))[0]


class Decoding:
    """Steps of one model over one cache."""

    def __init__(self, model: Model, cache: list[Any] | None = None) -> None:
        self.model, self.cache = model, model.make_cache() if cache is None else cache

    def step(self, token: int) -> np.ndarray:
        """The logits after one more token."""
        return np.array(self.model(mx.array([[token]]), self.cache))

    def verify(self, tokens: Sequence[int], keep: int) -> np.ndarray:
        """The logits after each of the tokens, of which the cache then holds the first."""
        hidden, verification = self.model.verify(mx.array([tokens]), self.cache)
        logits = np.array(self.model.logits(hidden))
        verification.keep(keep)
        return logits


def decoded(model: Model, seed: int = 0, steps: int = 6, cache: list[Any] | None = None) -> list[np.ndarray]:
    """Logits of plain steps and of verifications, some of whose tokens are kept, all drawn by `seed`."""
    draw, run, found = np.random.default_rng(seed), Decoding(model, cache), list[np.ndarray]()
    for _ in range(steps):
        found.append(run.step(int(draw.integers(90))))
        tokens = draw.integers(90, size=int(draw.integers(2, 6))).tolist()
        found.append(run.verify(tokens, int(draw.integers(1, len(tokens) + 1))))
    return found


@dataclass(frozen=True)
class Read:
    """What reading a prompt left.

    Attributes:
        logits: after its last token. said: what follows greedily. snapshots: position and recurrent states of each.
    """

    logits: np.ndarray
    said: list[int]
    snapshots: list[tuple[int, list[np.ndarray]]]


def read_prompt(
    model: Model, prompt: Sequence[int], remember_at: int, span_tokens: int = 8192, say: int = 4
) -> Read:
    timeline = Timeline(HybridCache(model.make_cache()))
    *_, last = prefill(model, timeline, prompt, marks=Marks(turn=remember_at), span_tokens=span_tokens)
    assert last.hidden is not None
    logits = np.array(model.logits(last.hidden))
    snapshots = [
        (s.position, [np.array(array) for state in s.states for array in state])
        for s in timeline.checkpoints.snapshots
    ]
    said = [int(logits[0, -1].argmax())]
    while len(said) < say:
        said.append(int(Decoding(model, timeline.cache.layers).step(said[-1])[0, -1].argmax()))
    return Read(logits, said, snapshots)


def check_same(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    """Every array is the same, bit for bit."""
    for n, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert (a == b).all(), f"step {n}: {abs(a - b).max()} apart"


def stacks(model: Model) -> list[Experts]:
    """The experts of every layer, the MTP head's too."""
    layers = [*model.layers, *([] if model.mtp is None else [model.mtp.layer])]
    return [f.experts for f in (layer.feed_forward for layer in layers) if isinstance(f, SparseMoe)]


def check_slots(model: Model, expected: Model) -> None:
    """What every expert that is present has in its slot is what it has in a model that is loaded as a whole."""
    for ours, theirs in zip(stacks(model), stacks(expected), strict=True):
        assert isinstance(ours, PooledExperts)
        places = ours._pool.table._slot_of
        experts = np.flatnonzero(places >= 0)
        slots = places[experts]
        assert len(set(slots.tolist())) == len(slots)
        for a, b in zip([*ours.gate_up, ours.down], [*theirs.gate_up, theirs.down], strict=True):
            for name in ("weight", "scales", "biases"):
                if getattr(b, name) is not None:
                    assert (np.array(getattr(a, name))[slots] == np.array(getattr(b, name))[experts]).all()
