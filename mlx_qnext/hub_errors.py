"""What the hub's client raises, as the one sentence that a user can act on."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mlx_qnext.errors import HubError, ModelNotFoundError, QnextError

_REFUSED_WRITES = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR}


@contextmanager
def hub_errors(repo: str, folder: Path | None = None) -> Iterator[None]:
    """Whatever the client raises becomes one sentence; `folder` is what is written to, without it the cache.

    The client's own texts are not shown: they hold URLs and advice for programmers, and its HTTP library's exceptions
    have no common base that survives its versions."""
    try:
        yield
    except QnextError:
        raise
    except Exception as error:
        raise _translated(error, repo, folder) from error


def _translated(error: Exception, repo: str, folder: Path | None) -> QnextError:
    # The client's "not in the cache either" hides why it had to look there.
    hidden = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
    cause = hidden or error
    if isinstance(cause, OfflineModeIsEnabled):
        return HubError(
            f"{repo} is not in the cache and HF_HUB_OFFLINE is set: unset it, or name another model."
        )
    if isinstance(cause, RevisionNotFoundError):
        return ModelNotFoundError(f"{repo} has no such revision on the hub: check what follows the @.")
    if isinstance(cause, GatedRepoError):
        return HubError(
            f"{repo} asks its users to accept terms first: do so on its hub page, then run `hf auth login`."
        )
    if isinstance(cause, RepositoryNotFoundError):
        return ModelNotFoundError(
            f"The hub has no model {repo}, or keeps it private: check the name, or run `hf auth login`."
        )
    if isinstance(cause, HfHubHTTPError):
        return _http_error(cause.response.status_code, repo)
    if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
        return HubError(
            f"The disk is full while downloading {repo}: free some space, then run the command again."
        )
    if isinstance(cause, OSError) and cause.errno in _REFUSED_WRITES:
        remedy = "name another folder" if folder else "set HF_HOME"
        return HubError(
            f"{folder or constants.HF_HUB_CACHE} cannot be written: check its permissions, or {remedy}."
        )
    return HubError(
        f"{repo} could not be downloaded ({type(cause).__name__}): check the connection, then run the command again "
        "to resume."
    )


def _http_error(status: int, repo: str) -> HubError:
    if status in (401, 403):
        return HubError(
            f"The hub refused access to {repo} ({status}): run `hf auth login` with a token that may read it."
        )
    if status == 429:
        return HubError(
            f"The hub has had too many requests from here ({status}): wait some minutes, then run again."
        )
    return HubError(f"The hub answered {status} for {repo}: run the command again later to resume.")
