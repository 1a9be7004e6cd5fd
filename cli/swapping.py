"""Another model in the place of the one that answers: there may not be room for both."""

from __future__ import annotations

import gc

from rich.console import Console

from cli.keeping import Keeping
from cli.loading import check_model, load_engine
from cli.options import Room
from cli.terminal import note
from mlx_qnext.errors import INTERRUPTED_EXIT_CODE, QnextError


class StoppedError(QnextError):
    """The user stopped the loading of another model."""

    exit_code = INTERRUPTED_EXIT_CODE


def swap_model(keeping: Keeping, model: str, room: Room, err: Console) -> None:
    """This model answers from now on, and has read nothing yet.

    Raises:
        ModelNotFoundError, CheckpointError, UnsupportedModelError, TokenizerError, HubError, MemoryLimitError: it cannot be
            loaded, and the one before answers on, which has read nothing either if it had to be loaded again.
        StoppedError: likewise, after an interrupt. QnextError: the one before cannot be loaded again.
    """
    before = keeping.model
    try:
        check_model(model, err)
    except KeyboardInterrupt:
        raise _stopped(before) from None
    try:
        keeping.let_go()
        _free_memory()
        keeping.use(load_engine(model, err, room), model)
    except (QnextError, KeyboardInterrupt) as error:
        # The frames that it comes from hold what was loaded.
        error.__traceback__ = error.__context__ = None
        failure = error
    else:
        return
    _free_memory()
    note(err, f"{before} is loaded again.")
    _reload(keeping, before, room, err)
    raise failure if isinstance(failure, QnextError) else _stopped(before)


def _stopped(before: str) -> StoppedError:
    return StoppedError(f"Stopped: {before} answers as before.")


def _free_memory() -> None:
    """Nothing that is held no more takes any."""
    import mlx.core as mx

    gc.collect()
    mx.clear_cache()


def _reload(keeping: Keeping, model: str, room: Room, err: Console) -> None:
    try:
        keeping.use(load_engine(model, err, room), model)
    except QnextError as error:
        raise QnextError(f"No model is left: {model} cannot be loaded again ({error})") from None
