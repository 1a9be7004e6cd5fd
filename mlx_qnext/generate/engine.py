"""What is loaded and never changes: model, tokenizer, defaults. Sessions run on it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.config import ModelConfig
from mlx_qnext.errors import CheckpointError, MemoryLimitError
from mlx_qnext.experts.files import WeightFiles
from mlx_qnext.experts.hot import hot_key, load_hot, save_hot
from mlx_qnext.experts.plan import MemoryPlan, plan_memory
from mlx_qnext.experts.remembered import WORTH_REMEMBERING_BYTES
from mlx_qnext.experts.store import ExpertStore
from mlx_qnext.generate.session import Session
from mlx_qnext.generation_defaults import GenerationDefaults
from mlx_qnext.hub import resolve
from mlx_qnext.model.loading import build_model, check_complete
from mlx_qnext.model.qwen3_next import Model
from mlx_qnext.ops.device import Backend, backend
from mlx_qnext.tokenizer import Tokenizer


@dataclass(frozen=True)
class Engine:
    """A loaded model; any number of sessions share it, one generating at a time.

    Attributes:
        path: the folder it was loaded from.
        defaults: what the model's publisher recommends for sampling.
        plan: what memory was set aside for. store: the experts, which are read when they are routed to.
        key: under which things are remembered of these weights between runs.
        close: ends the reading of experts and remembers which were hot; happens by itself when nothing refers to the engine
            any more, and when the program ends. Nothing can be generated afterwards.
    """

    path: Path
    config: ModelConfig
    model: Model
    tokenizer: Tokenizer
    defaults: GenerationDefaults
    plan: MemoryPlan
    store: ExpertStore
    key: str
    close: Callable[[], object]

    def session(self) -> Session:
        """A session that remembers nothing yet."""
        return Session(self)


def load(
    model: str | Path,
    *,
    memory_bytes: int | None = None,
    context_tokens: int | None = None,
    kv_bits: int | None = None,
    on_download: Callable[[int, int], None] | None = None,
    on_layer: Callable[[int, int], None] | None = None,
) -> Engine:
    """Load a folder, a hub repository or an alias; what can fail without reading weights fails first.

    Nearly all of a model is experts, and none of them is read before a token is routed to it. Where there is memory for
    all, the background reads the others meanwhile.

    Args:
        memory_bytes: what the model may take in all, weights, caches and workspace; `None` is what the machine can spare.
        context_tokens: for how long a context memory is set aside; `None` is the longest of 32,768, 16,384 and 8,192 whose
            cache takes at most an eighth of that memory, or else 8,192, and never more than the model has.
        kv_bits: 8 or 4 keeps the keys and values quantised; `None` as they are computed.
        on_download: called with bytes done and total. on_layer: called with layers done and total.

    Raises:
        QnextError: the model cannot be found, is damaged, is of a kind that this program does not run, or finds no room; there
            is no such context, or there are no such keys and values.
    """
    folder = resolve(str(model), on_download)
    checkpoint = Checkpoint.open(folder)
    config = ModelConfig.from_dict(checkpoint.config)
    defaults = GenerationDefaults.from_folder(folder)
    eos_ids = defaults.eos_token_ids + config.eos_token_ids
    tokenizer = Tokenizer.from_folder(folder, eos_ids, config.vocab_size)
    plan = plan_memory(checkpoint, config, memory_bytes, context_tokens, kv_bits)
    # Before memory is taken: a checkpoint that is refused has cost none.
    check_complete(checkpoint)
    _limit_memory(plan)
    store = ExpertStore(WeightFiles({tensor.file for tensor in checkpoint.tensors.values()}), plan.slots)
    try:
        with _failures_told(folder, plan):
            network, config = build_model(checkpoint, on_layer, store)
        key = hot_key(checkpoint)
    except BaseException:
        store.close()
        raise
    store.fill(load_hot(key))
    forgotten = weakref.finalize(network, _retire_elsewhere, store, key)

    def close() -> None:
        if forgotten.detach() is not None:
            _retire(store, key)

    return Engine(folder, config, network, tokenizer, defaults, plan, store, key, close)


def _retire_elsewhere(store: ExpertStore, key: str) -> None:
    """For the garbage collector, which may run in any thread: in one that reads, or that holds a lock which closing takes."""
    # When the program ends it is the main thread that asks, and no other can be started any more.
    if threading.main_thread().is_alive():
        threading.Thread(target=_retire, args=(store, key), name="qnext-retire").start()
    else:
        _retire(store, key)


def _retire(store: ExpertStore, key: str) -> None:
    store.close()
    if store.asked_by_user and store.total_bytes >= WORTH_REMEMBERING_BYTES:
        save_hot(key, store.hottest())


@contextmanager
def _failures_told(folder: Path, plan: MemoryPlan) -> Iterator[None]:
    """Within, what MLX cannot allocate or read comes out as an error of ours.

    Raises:
        MemoryLimitError: there is less memory than was planned with. CheckpointError: weights cannot be read.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # MLX tells its errors apart by their text alone.
        if isinstance(error, MemoryError) or "alloc" in str(error) or "out of memory" in str(error):
            raise MemoryLimitError(
                f"The {plan.total_bytes / 1e9:.2f} GB that were planned for the model are not there: close other programs, "
                "or give it less with --memory."
            ) from None
        if str(error).startswith("[read]"):
            raise CheckpointError(
                f"The weights in {folder} could not be read to their end: check the disk, and start again."
            ) from None
        raise


def _limit_memory(plan: MemoryPlan) -> None:
    """Let Metal keep the weights resident, or macOS may page them out between two answers; keep few buffers beyond those in
    use."""
    if backend() is Backend.METAL:
        mx.set_wired_limit(min(plan.total_bytes, int(mx.device_info()["max_recommended_working_set_size"])))
    # CUDA's allocator takes minutes to get a prompt's workspace back.
    if backend() is not Backend.CUDA:
        mx.set_cache_limit(plan.workspace_bytes)
