"""Writes cli.md from the commands themselves: python docs/generate_cli.py."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from cli.batch import SOME_FAILED_EXIT_CODE
from cli.main import app
from mlx_qnext import errors

PAGE = Path(__file__).with_name("cli.md")
COMMANDS = (
    "chat",
    "generate",
    "batch",
    "inspect",
    "models",
    "quantize",
    "sessions",
    "sessions show",
    "sessions delete",
    "config",
    "config get",
    "config set",
    "config unset",
    "config path",
)
OTHER_CODES = (
    (
        0,
        "There is an answer, which may be cut off at its limit of tokens: stderr and `finish_reason` say so. Or facts.",
    ),
    (SOME_FAILED_EXIT_CODE, "Lines of a batch have no answer; each has a record that says why."),
    (errors.INTERRUPTED_EXIT_CODE, "An interrupt ended the answer; what was said until then is printed."),
)


def page() -> str:
    """The page as it should be."""
    parts = [
        "# Commands\n\nWritten by `docs/generate_cli.py` from the commands' own help.\n",
        _help(),
        *(f"## qnext {name}\n\n{_help(*name.split())}" for name in COMMANDS),
        _exit_codes(),
    ]
    return "\n".join(parts)


def _help(*command: str) -> str:
    # Help shows what holds, and the page what is built in.
    with_nobodys_settings = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "QNEXT_CONFIG": "/dev/null"}
    result = CliRunner(env=with_nobodys_settings).invoke(app, [*command, "--help"], prog_name="qnext")
    lines = "\n".join(line.rstrip() for line in result.output.splitlines())
    return f"```\n{lines.strip()}\n```\n"


def _exit_codes() -> str:
    kinds = [errors.QnextError, *errors.QnextError.__subclasses__()]
    rows = [(kind.exit_code, (kind.__doc__ or "").splitlines()[0]) for kind in kinds]
    rows[0] = (1, "Something unexpected, or the reader of stdout left.")
    lines = [f"| {code} | {meaning} |" for code, meaning in sorted([*rows, *OTHER_CODES])]
    return "\n".join(["## Exit codes\n", "| code | meaning |", "|---|---|", *lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
