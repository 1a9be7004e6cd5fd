"""Another model in the place of the one that answers: there may not be room for both."""

from __future__ import annotations

from rich.console import Console

from cli.keeping import Keeping
from cli.loading import check_model, load_engine
from cli.options import Room
from cli.terminal import note
from mlx_qnext.errors import QnextError


def swap_model(keeping: Keeping, model: str, room: Room, err: Console) -> None:
    """This model answers from now on, and has read nothing yet.

    Raises:
        ModelNotFoundError, CheckpointError, UnsupportedModelError, TokenizerError, HubError, MemoryLimitError: it cannot be
            loaded, and the one before answers on, which has read nothing either if it had to be loaded again.
        KeyboardInterrupt: likewise. QnextError: that one cannot be loaded again.
    """
    check_model(model, err)
    before = keeping.model
    keeping.let_go()
    try:
        keeping.use(load_engine(model, err, room), model)
    except (QnextError, KeyboardInterrupt):
        note(err, f"{before} is loaded again.")
        _reload(keeping, before, room, err)
        raise


def _reload(keeping: Keeping, model: str, room: Room, err: Console) -> None:
    try:
        keeping.use(load_engine(model, err, room), model)
    except QnextError as error:
        raise QnextError(f"No model is left: {model} cannot be loaded again ({error})") from None
