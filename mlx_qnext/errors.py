"""What can go wrong, as the user meets it: one sentence and one exit code each.

    QnextError                    1   anything below, and nothing else, is shown without a traceback
    ├── UsageError                2   an argument that cannot be meant: a negative temperature, an empty prompt
    ├── ModelNotFoundError        3   no such folder, alias or repository
    ├── CheckpointError           4   files that are damaged, incomplete, contradict each other or cannot be read
    ├── UnsupportedModelError     5   another architecture, or a quantisation this program does not compute
    ├── TokenizerError            6   tokenizer or chat template missing, unreadable or failing
    ├── ContextLengthError        7   more tokens than the model's context holds
    ├── HubError                  8   the hub refused, failed or could not be reached
    ├── MemoryLimitError          9   weights and cache that cannot fit this machine
    ├── OutputError              10   what was made cannot be written: no space, no permission
    └── SessionError             11   a saved session that is not there, in use, damaged, or another model's

A run that the user stops ends with 130, as shells expect of an interrupted program.
"""

from __future__ import annotations

INTERRUPTED_EXIT_CODE = 130


class QnextError(Exception):
    """A failure that the user can act on; `str(error)` is one sentence that says how."""

    exit_code = 1


class UsageError(QnextError):
    """An argument has a value that cannot be meant."""

    exit_code = 2


class ModelNotFoundError(QnextError):
    """The model named is neither a folder, nor an alias, nor a hub repository."""

    exit_code = 3


class CheckpointError(QnextError):
    """The checkpoint's files are damaged, incomplete, contradict each other, or cannot be read."""

    exit_code = 4


class UnsupportedModelError(QnextError):
    """The checkpoint is sound, and of a kind that this program does not run."""

    exit_code = 5


class TokenizerError(QnextError):
    """The tokenizer or the chat template is missing, unreadable, or fails on these messages."""

    exit_code = 6


class ContextLengthError(QnextError):
    """The prompt does not fit the model's context."""

    exit_code = 7


class HubError(QnextError):
    """The hub refused the request, failed, or could not be reached."""

    exit_code = 8


class MemoryLimitError(QnextError):
    """Weights and cache cannot fit this machine's memory."""

    exit_code = 9


class OutputError(QnextError):
    """The disk takes no more, or not there."""

    exit_code = 10


class SessionError(QnextError):
    """A saved session is not there, in use, damaged, or of another model."""

    exit_code = 11
