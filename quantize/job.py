"""A whole `qnext quantize`: from a source to a finished folder, or to a plan that says what it would be."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.disk import on_one_disk, writing
from mlx_qnext.errors import UnsupportedModelError, UsageError
from mlx_qnext.model.loading import check_complete
from mlx_qnext.safetensors_header import TensorInfo
from mlx_qnext.tokenizer import Tokenizer
from quantize.convert import OnStep, convert
from quantize.documents import documents_from
from quantize.elements import FP8_DTYPE
from quantize.evaluate import Quality, evaluate
from quantize.facts import Facts
from quantize.loss import Loss
from quantize.manifest import OnBytes
from quantize.opening import (
    Progress,
    check_apart,
    check_head,
    open_source,
    open_target,
    recipe_of,
    refuse_quantised,
)
from quantize.plan import Plan, make_mtp_plan, make_plan
from quantize.planned import PlannedCheckpoint
from quantize.recipe import Recipe
from quantize.seal import complete, link_weights, sign
from quantize.source import Source
from quantize.workspace import Workspace


def _ignore(*_: object) -> None:
    """For those who want no progress."""


@dataclass(frozen=True)
class Listeners:
    """Who is told how far a job is: converting, evaluating (steps done, total), digesting the result (bytes done, total)."""

    on_step: OnStep = _ignore
    on_evaluated: Progress = _ignore
    on_signed: OnBytes = _ignore


@dataclass(frozen=True)
class Job:
    """What is to be made.

    Attributes:
        target: an existing quantised checkpoint that is given the source's MTP head; `None` to quantise all of the source.
    """

    source: Source
    target: Checkpoint | None
    recipe: Recipe
    plan: Plan
    workspace: Workspace

    def run(self, documents: Sequence[Sequence[int]] | None, listeners: Listeners) -> Facts:
        """The destination is there, whole; what was unfinished before is gone on with.

        Args:
            documents: token sequences to evaluate the result on, beside its source; `None` evaluates nothing.

        Raises:
            CheckpointError, HubError: as the source gives them. OutputError: the disk refused.
        """
        self.workspace.check_room(self._beside_bytes, self.plan.files)
        losses = convert(self.plan, self.source, self.workspace, listeners.on_step)
        result = self.workspace.result
        with writing(self.workspace.dest):
            if self.target:
                link_weights(self.target, result)
            complete(result, self.plan, (self.target or self.source.checkpoint).folder)
        facts = self._facts(losses, self._evaluate(documents, listeners))
        with writing(self.workspace.dest):
            sign(result, facts, listeners.on_signed)
        self.workspace.finish()
        return facts

    @property
    def room_bytes(self) -> int:
        """What result and source files take on the disk at once."""
        return self.plan.output_bytes + self._beside_bytes

    @property
    def _beside_bytes(self) -> int:
        """The part of it that the plan does not make."""
        copied_bytes = 0 if self._links else sum(tensor.nbytes for tensor in self._target_tensors)
        return copied_bytes + self.source.room_bytes(self.files())

    @property
    def _target_tensors(self) -> Collection[TensorInfo]:
        return self.target.tensors.values() if self.target else ()

    @property
    def _links(self) -> bool:
        """Whether the target's files need no copy."""
        files = {tensor.file.resolve() for tensor in self._target_tensors}
        return all(on_one_disk(file, self.workspace.folder) for file in files)

    @cached_property
    def made(self) -> Checkpoint:
        """What the result will hold."""
        return PlannedCheckpoint.of(self.plan, self.workspace.result, self.target)

    def files(self) -> list[str]:
        """The source's files that are read."""
        return [name for name, _ in self.plan.by_source_file()]

    def forecast(self) -> Facts:
        """What the result will be, as far as headers tell."""
        return self._facts({}, None)

    def _facts(self, losses: Mapping[str, Loss], quality: Quality | None) -> Facts:
        target = self.target.folder.name if self.target else None
        return Facts.gather(self.made, self.source.name, target, self.recipe, losses, quality)

    def documents(self, file: Path) -> list[list[int]]:
        """The tokens of a file to evaluate on.

        Raises:
            UsageError: it cannot be used, or there is no source to run beside the result.
            UnsupportedModelError: the source is in a form that does not run here.
            TokenizerError: the source's tokenizer is missing or fails.
        """
        if self.target:
            raise UsageError(
                "--evaluate runs the source beside the result, and --mtp-from has none for the trunk: leave it out."
            )
        if self.source.weights is None:
            raise UsageError(
                "--evaluate runs the source once more: add --keep-shards, so that it stays on this disk."
            )
        if any(tensor.dtype == FP8_DTYPE for tensor in self.source.checkpoint.tensors.values()):
            raise UnsupportedModelError(
                f"--evaluate runs the source, and {self.source.name} is in FP8, which does not run here: leave it out."
            )
        return documents_from(file, Tokenizer.from_folder(self.source.checkpoint.folder))

    def _evaluate(self, documents: Sequence[Sequence[int]] | None, listeners: Listeners) -> Quality | None:
        if documents is None or self.source.weights is None:
            return None
        return evaluate(self.source.weights, self.workspace.result, documents, listeners.on_evaluated)


@contextmanager
def prepare(
    source: str,
    dest: Path,
    recipe: Recipe | None,
    *,
    mtp_from: str | None = None,
    keep_shards: bool = False,
    on_download: Progress | None = None,
) -> Iterator[Job]:
    """The job, checked from headers alone; the destination is locked while it is used.

    Args:
        source: a folder or a repository; with `mtp_from`, the quantised checkpoint to be given the head of that one.
        recipe: `None` is the one whose bits are those of the checkpoint that gets the head.
        on_download: told of that checkpoint's download (done, total bytes), where it is on the hub.

    Raises:
        UsageError: the destination or the recipe cannot be meant. ModelNotFoundError, HubError, CheckpointError,
            UnsupportedModelError: the source cannot be used.
    """
    workspace = Workspace(dest)
    for read in (source, mtp_from or source):
        check_apart(read, dest)
    with workspace.locked():
        target = open_target(source, on_download) if mtp_from is not None else None
        opened = open_source(mtp_from or source, workspace.shards, keep_shards=keep_shards)
        if target is None:
            assert recipe is not None
            refuse_quantised(opened.checkpoint, source)
            plan = make_plan(opened.checkpoint, recipe, opened.identity)
        else:
            recipe = recipe or recipe_of(target)
            check_head(opened.checkpoint, target, mtp_from or "")
            plan = make_mtp_plan(opened.checkpoint, target, recipe, opened.identity)
        job = Job(opened, target, recipe, plan, workspace)
        check_complete(job.made)
        yield job
