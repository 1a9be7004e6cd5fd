"""The conversion itself: files of the source pass by, cores turn their pieces into the result's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlx_qnext.disk import writing
from mlx_qnext.safetensors_header import TensorInfo
from quantize.elements import read_bytes
from quantize.loss import Loss
from quantize.output_files import OutputWriter
from quantize.piece import ReadScale, convert_piece
from quantize.plan import Piece, Plan
from quantize.source import Source
from quantize.workspace import Workspace

MAX_WORKERS = 8
# Progress is told, and an interrupt noticed, at least so often.
_POLL_S = 0.1
_TASK_BYTES = 16 << 20
# What a kill costs is redone; what is recorded was flushed before.
_RECORD_EVERY_BYTES = 1 << 29


@dataclass(frozen=True)
class Step:
    """How far a conversion is.

    Attributes:
        done_bytes, total_bytes: of the source, converted.
        arrived_bytes: of the source, here or converted; from a folder, no more than those done.
        tensor: the one at hand.
    """

    done_bytes: int
    total_bytes: int
    arrived_bytes: int
    tensor: str

    @property
    def work_bytes(self) -> int:
        """Progress in bytes of the source: fetching and converting count half each, so that its rate is steady."""
        return (self.done_bytes + self.arrived_bytes) // 2


OnStep = Callable[[Step], None]


def convert(plan: Plan, source: Source, workspace: Workspace, on_step: OnStep) -> dict[str, Loss]:
    """Every byte of the plan's files is in the workspace's result; the loss of each module that was rounded.

    Pieces that an earlier run recorded are not done again. The losses do not depend on where a run was interrupted.

    Raises:
        CheckpointError, HubError, OutputError: as its parts; what is done stays recorded.
    """
    done = workspace.begin(plan.fingerprint, plan.files)
    with writing(workspace.result), OutputWriter(workspace.result, plan.files) as writer:
        _Conversion(plan, source, workspace, writer, on_step, done).run()
    return _by_module(plan, done)


def _by_module(plan: Plan, done: Mapping[int, Loss]) -> dict[str, Loss]:
    losses = {module: Loss() for module, precision in plan.precisions.items() if precision}
    for number, piece in enumerate(plan.pieces):
        if piece.precision:
            losses[piece.target] += done[number]
    return losses


class _Conversion:
    """One run over the pieces that are not done."""

    def __init__(
        self,
        plan: Plan,
        source: Source,
        workspace: Workspace,
        writer: OutputWriter,
        on_step: OnStep,
        done: dict[int, Loss],
    ) -> None:
        self._plan, self._source, self._workspace, self._writer = plan, source, workspace, writer
        self._on_step, self._done = on_step, done
        self._total_bytes = plan.source_bytes
        self._done_bytes = sum(plan.pieces[number].source_bytes for number in done)
        self._arrived_bytes, self._arrival = self._done_bytes, threading.Lock()
        self._tensor = ""
        self._unrecorded: list[tuple[int, Loss]] = []
        self._stopped = threading.Event()

    def run(self) -> None:
        waiting = {
            file: [number for number in numbers if number not in self._done]
            for file, numbers in self._plan.by_source_file()
        }
        waiting = {file: numbers for file, numbers in waiting.items() if numbers}
        with self._workers() as pool, closing(self._source.files(list(waiting), self._on_fetch)) as files:
            try:
                for file, path in files:
                    self._convert_file(pool, path, waiting[file])
            finally:
                self._stopped.set()
                self._record()

    @contextmanager
    def _workers(self) -> Iterator[ThreadPoolExecutor]:
        pool = ThreadPoolExecutor(worker_count(), thread_name_prefix="convert")
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _convert_file(self, pool: ThreadPoolExecutor, path: Path, numbers: Sequence[int]) -> None:
        """All pieces of one file are done; its workers have ended, whatever happened."""
        pending = {pool.submit(self._convert_pieces, path, part) for part in self._parts(numbers)}
        try:
            while pending:
                for task in wait(pending, timeout=_POLL_S, return_when=FIRST_COMPLETED).done:
                    self._add(task)
                    pending.discard(task)
                self._report()
        except BaseException:
            self._stopped.set()
            for task in wait(pending).done:
                if not task.cancelled() and task.exception() is None:
                    self._add(task)
            raise
        self._record()

    def _parts(self, numbers: Iterable[int]) -> Iterator[list[int]]:
        """Consecutive pieces, enough of them that handing them out costs nothing."""
        part, nbytes = [], 0
        for number in numbers:
            part.append(number)
            nbytes += self._plan.pieces[number].source_bytes
            if nbytes >= _TASK_BYTES:
                yield part
                part, nbytes = [], 0
        if part:
            yield part

    def _convert_pieces(self, path: Path, numbers: Sequence[int]) -> list[tuple[int, Loss]]:
        results = []
        for number in numbers:
            if self._stopped.is_set():
                break
            piece = self._plan.pieces[number]
            self._tensor = piece.placement.name
            results.append(
                (number, convert_piece(piece, path, self._scale_reader(piece, path), self._writer))
            )
        return results

    def _scale_reader(self, piece: Piece, path: Path) -> ReadScale:
        def read(scale: TensorInfo) -> NDArray[np.uint8]:
            if scale.file == piece.placement.source.file:
                return read_bytes(path, scale, 0, scale.nbytes)
            return self._source.read_apart(scale)

        return read

    def _add(self, task: Future[list[tuple[int, Loss]]]) -> None:
        results = task.result()
        self._unrecorded += results
        self._done_bytes += sum(self._plan.pieces[number].source_bytes for number, _ in results)
        if (
            sum(self._plan.pieces[number].source_bytes for number, _ in self._unrecorded)
            >= _RECORD_EVERY_BYTES
        ):
            self._record()

    def _record(self) -> None:
        if self._unrecorded:
            self._writer.flush()
            self._workspace.record(self._unrecorded)
            self._done.update(self._unrecorded)
            self._unrecorded = []

    def _on_fetch(self, nbytes: int) -> None:
        with self._arrival:
            self._arrived_bytes += nbytes
        self._report()

    def _report(self) -> None:
        arrived_bytes = min(max(self._arrived_bytes, self._done_bytes), self._total_bytes)
        self._on_step(Step(self._done_bytes, self._total_bytes, arrived_bytes, self._tensor))


def worker_count() -> int:
    """Threads that convert at once: one for each core that this process may use, eight at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_WORKERS)
