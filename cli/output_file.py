"""One answer in a file: whole, or the file is what it was."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile

from mlx_qnext.disk import replacing, writing
from mlx_qnext.errors import OutputError

_AGAIN = "run the same command again"


def check_output(path: Path) -> None:
    """Returns where a file can be written, as far as can be said before there is an answer.

    Raises:
        OutputError: it cannot.
    """
    with writing(path, _AGAIN):
        target = path.resolve()
        # A device would be replaced by a file of its name.
        if _is_stream(path) or (target.exists() and not target.is_file()):
            raise OutputError(f"{path} is no file: name one to write, or - for stdout.")
        if not target.parent.is_dir():
            raise OutputError(f"{target.parent} is no folder: make it, or name another file.")
        # Nobody should learn after a long answer that its folder takes no file.
        with TemporaryFile(dir=target.parent):
            pass


def write_output(path: Path, text: str) -> None:
    """The file holds this text and nothing else, after any loss of power too; a link to a file stays one.

    Raises:
        OutputError: it cannot be written, and is what it was.
    """
    target = path.resolve()
    with writing(target, _AGAIN), replacing(target) as fresh:
        fresh.write_text(text, encoding="utf-8", errors="replace", newline="")


def _is_stream(path: Path) -> bool:
    """Whether this is the program's own: it may lead to a file, as after `> log`, which is not to be replaced."""
    return str(path.absolute()).startswith(("/dev/std", "/dev/fd/", "/proc/"))
