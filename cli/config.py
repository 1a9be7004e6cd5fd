"""`qnext config`: defaults that hold until a command line or the environment says otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cli import terminal
from cli.config_file import ConfigFile, config_path, write_setting
from cli.config_settings import UNSET, VARIABLES, Value, find, settings, text_of
from cli.shell_completion import complete_key, complete_value
from cli.views.config import SettingRow, setting_table
from mlx_qnext.errors import UsageError

config = typer.Typer(rich_markup_mode=None)

_Key = Annotated[
    str, typer.Argument(metavar="NAME", help="An option, without its dashes.", autocompletion=complete_key)
]


@config.callback(invoke_without_command=True)
def list_(call: typer.Context) -> None:
    """List the defaults of chat, generate, batch and inspect, and where each comes from; or set some of them. A command line
    comes before the environment, and that before the file."""
    if call.invoked_subcommand is None:
        file = ConfigFile.read_in_part()
        rows = [_row(key, file) for key in settings()]
        terminal.out().print(setting_table(rows, file.path), soft_wrap=False)
        if file.problems:
            raise UsageError("\n".join(file.problems))


@config.command()
def get(key: _Key) -> None:
    """Print what holds for an option; nothing where that is up to the model."""
    find(key)
    row = _row(key, ConfigFile.read())
    typer.echo("" if row.value == UNSET else row.value)


# Numbers may be negative, and a text may begin with a dash.
@config.command("set", context_settings={"ignore_unknown_options": True})
def set_(
    key: _Key,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="VALUE...", help="Its value; stop takes several.", autocompletion=complete_value
        ),
    ],
) -> None:
    """Set a default in the file. Its comments and all other lines stay."""
    value = find(key).parsed(words)
    if key == "model":
        value = _from_everywhere(str(value))
    write_setting(key, value)
    terminal.note(terminal.err(), f"{key} is {text_of(value)} in {config_path()}.{_overruled(key)}")


@config.command()
def unset(key: _Key) -> None:
    """Take a default out of the file."""
    # A key that is no setting, from another version, can be taken out too.
    if write_setting(key, None):
        said = f"{key} is not set in {config_path()} any more."
    else:
        find(key)
        said = f"{key} is not set in {config_path()}."
    terminal.note(terminal.err(), f"{said}{_overruled(key)}")


@config.command("path")
def path_() -> None:
    """Print where the file is, or would be."""
    typer.echo(config_path())


def _row(key: str, file: ConfigFile) -> SettingRow:
    variable = VARIABLES.get(key)
    if variable is not None and (chosen := os.environ.get(variable)):
        return SettingRow(key, chosen, variable)
    if key in file.values:
        return SettingRow(key, text_of(file.values[key]), f"line {file.lines[key]} of the file")
    return SettingRow(key, settings()[key].built_in, None)


def _overruled(key: str) -> str:
    variable = VARIABLES.get(key)
    if variable is None or not os.environ.get(variable):
        return ""
    return f" {variable} is set too, and comes first."


def _from_everywhere(model: str) -> Value:
    """The model, its folder named so that it is found from every other one.

    Raises:
        ModelNotFoundError: there is none of that name.
    """
    # Kept out of every command's start-up.
    from mlx_qnext.hub import DEMO, locate

    place = locate(model)
    return str(place.absolute()) if isinstance(place, Path) and model != DEMO else model
