"""The `qnext` program: its commands, and the one place where failures become a sentence and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from cli.batch import batch
from cli.chat import ResumeMayStandAlone, chat
from cli.config import config
from cli.config_file import ConfigFile
from cli.generate import generate
from cli.inspect import inspect
from cli.models import models
from cli.quantize import quantize
from cli.sessions import sessions
from cli.terminal import occupy_closed_stdin, replace_what_cannot_be_encoded
from mlx_qnext.errors import OutputError, QnextError

DEBUG_VARIABLE = "QNEXT_DEBUG"

app = typer.Typer(
    name="qnext",
    help="Run Qwen3-Next-80B-A3B on a Mac.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=ResumeMayStandAlone)(chat)
app.command()(generate)
app.command()(batch)
app.command()(inspect)
app.command()(models)
app.command()(quantize)
app.add_typer(sessions, name="sessions")
app.add_typer(config, name="config")

_CONFIGURED = ("chat", "generate", "batch", "inspect")


@app.callback(invoke_without_command=True)
def _root(
    call: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Show this version and those of MLX and mlx-lm, and exit.")
    ] = False,
) -> None:
    if show_version:
        typer.echo(_versions())
        raise typer.Exit
    if call.invoked_subcommand in _CONFIGURED:
        file = ConfigFile.read()
        # Each command finds its own among them, and what its command line or the environment says comes first.
        defaults = {key.replace("-", "_"): value for key, value in file.values.items()}
        call.default_map = dict.fromkeys(_CONFIGURED, defaults)


def _versions() -> str:
    # Looked up here alone: the import takes as long as a quarter of all others.
    from importlib.metadata import version

    return f"qnext {version('qnext')}\nmlx {version('mlx')}, mlx-lm {version('mlx-lm')}"


def main() -> None:
    """Run the command line and exit with its code; every failure is one line on stderr.

    Typer itself ends with 2 for options it cannot read and with 130 for an interrupt; where the reader of stdout has left, Rich
    and Typer end with 1 and say nothing.
    """
    occupy_closed_stdin()
    replace_what_cannot_be_encoded()
    try:
        # However it was started, people and shells call it by this name.
        app(prog_name="qnext")
    except QnextError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            _fail(
                "The disk is full where stdout or stderr go: free some space, then run the same command again.",
                OutputError.exit_code,
            )
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        _fail(
            f"Something unexpected failed ({type(error).__name__}: {_first_line(error)}): "
            f"run again with {DEBUG_VARIABLE}=1 for the details, and report them.",
            QnextError.exit_code,
        )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "no message")


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"qnext: {message}\n")
    sys.exit(code)
