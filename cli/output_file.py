"""One answer in a file: whole, or the file is what it was."""

from __future__ import annotations

from pathlib import Path

from mlx_qnext.disk import replacing, writing
from mlx_qnext.errors import OutputError


def check_output(path: Path) -> None:
    """Returns where a file can be written, as far as can be said before there is an answer.

    Raises:
        OutputError: it cannot.
    """
    target = path.resolve()
    # A device would be replaced by a file of its name.
    if target.exists() and not target.is_file():
        raise OutputError(f"{path} is no file: name one to write, or leave --output out for stdout.")
    if not target.parent.is_dir():
        raise OutputError(f"{target.parent} is no folder: make it, or name another file.")


def write_output(path: Path, text: str) -> None:
    """The file holds this text and nothing else, after any loss of power too; a link to a file stays one.

    Raises:
        OutputError: it cannot be written, and is what it was.
    """
    target = path.resolve()
    with writing(target, "run the same command again"), replacing(target) as fresh:
        fresh.write_text(text, encoding="utf-8", errors="replace", newline="")
