"""The `qnext` program: its commands, and the one place where failures become a sentence and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import version
from typing import Annotated

import typer

from cli.chat import chat
from cli.generate import generate
from cli.inspect import inspect
from mlx_qnext.errors import INTERRUPTED_EXIT_CODE, QnextError

# What a shell reports of a program that a closed pipe ended.
BROKEN_PIPE_EXIT_CODE = 141
DEBUG_VARIABLE = "QNEXT_DEBUG"

app = typer.Typer(
    name="qnext",
    help="Run Qwen3-Next-80B-A3B on a Mac.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command()(chat)
app.command()(generate)
app.command()(inspect)


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if show_version:
        typer.echo(f"qnext {version('qnext')}")
        raise typer.Exit


def main() -> None:
    """Run the command line and exit with its code; every failure is one line on stderr."""
    try:
        app()
    except QnextError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED_EXIT_CODE)
    except BrokenPipeError:
        # The interpreter flushes stdout when it ends, and would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE_EXIT_CODE)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        _fail(
            f"Something unexpected failed ({type(error).__name__}: {_first_line(error)}): "
            f"run again with {DEBUG_VARIABLE}=1 for the details, and report them.",
            QnextError.exit_code,
        )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "no message")


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"qnext: {message}\n")
    sys.exit(code)
