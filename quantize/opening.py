"""From what the user names to sources that can be converted, or one sentence why they cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.config import ModelConfig
from mlx_qnext.errors import UnsupportedModelError, UsageError
from mlx_qnext.hub import Repository, locate, resolve
from mlx_qnext.json_fields import shown
from mlx_qnext.remote import RemoteCheckpoint
from quantize.recipe import Recipe
from quantize.source import FolderSource, HubSource, Source

Progress = Callable[[int, int], None]


def open_source(name: str, shards: Path, *, keep_shards: bool) -> Source:
    """The checkpoint that `name` is, known by its headers.

    Args:
        shards: where files of a hub repository are put while they are needed.

    Raises:
        ModelNotFoundError, HubError, CheckpointError, UnsupportedModelError: there is none, or it cannot be read.
    """
    place = locate(name)
    if isinstance(place, Repository):
        remote = RemoteCheckpoint.open(place.name, place.revision, shards)
        return HubSource(remote, keep=keep_shards)
    return FolderSource(Checkpoint.open(place))


def open_target(name: str, on_download: Progress | None) -> Checkpoint:
    """The quantised checkpoint that is given a head, downloaded first where it is not here.

    Raises:
        UsageError: it is not quantised, or has a head. ModelNotFoundError, HubError, CheckpointError, UnsupportedModelError.
    """
    target = Checkpoint.open(resolve(name, on_download))
    ModelConfig.from_dict(target.config)
    if target.layout != "mlx" or target.quantization is None:
        raise UsageError(
            f"--mtp-from adds a head to quantised weights in MLX layout, and {name} is not quantised: run "
            f"`qnext quantize {name} DEST` without it."
        )
    if target.has_mtp:
        raise UsageError(f"{name} has an MTP head already: use it as it is.")
    return target


def recipe_of(target: Checkpoint) -> Recipe:
    """The recipe whose bits are those that most of `target` has."""
    assert target.quantization is not None
    default = target.quantization.default
    return Recipe("as the model", f"{default.bits} bits, as the model that is given the head", default)


def refuse_quantised(checkpoint: Checkpoint, name: str) -> None:
    """Return where the checkpoint is as its publisher stores it.

    Raises:
        UnsupportedModelError: it is quantised, by MLX or by another program.
    """
    if checkpoint.config.get("quantization") is not None:
        raise UnsupportedModelError(
            f"{name} is quantised already, and rounding twice only loses more: use it as it is, with `qnext chat --model "
            f"{name}`, give it an MTP head, with --mtp-from ORIGINAL, or name the original instead."
        )
    other = checkpoint.config.get("quantization_config")
    method = other.get("quant_method") if isinstance(other, dict) else None
    if other is not None and method != "fp8":
        raise UnsupportedModelError(
            f"{name} is quantised by {shown(method)}, which is not converted here: name the model in bf16 or FP8."
        )


def check_head(donor: Checkpoint, target: Checkpoint, name: str) -> None:
    """Return where the donor has a head that fits the target.

    Raises:
        UsageError: it has none, or another model's. UnsupportedModelError: its head is quantised.
    """
    if not donor.has_mtp:
        raise UsageError(f"{name} has no MTP head: name the model as its publisher stores it.")
    if donor.config.get("quantization") is not None:
        raise UnsupportedModelError(
            f"{name} is quantised already: name the model as its publisher stores it."
        )
    theirs, ours = ModelConfig.from_dict(donor.config), ModelConfig.from_dict(target.config)
    differs = theirs.first_difference(ours)
    if differs is not None:
        raise UsageError(
            f"{name} has {differs} = {getattr(theirs, differs)}, and {target.folder} has {getattr(ours, differs)}: "
            "the head of another model does not fit."
        )


def check_apart(source: str, dest: Path) -> None:
    """Return where the destination is not inside the source.

    Raises:
        UsageError: it is.
    """
    folder = Path(source).expanduser()
    if folder.is_dir() and dest.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{dest} is inside {source}, which is only read: name a folder outside it.")
