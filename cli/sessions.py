"""`qnext sessions`: the conversations that were saved."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cli import terminal
from cli.saved import facts_of
from cli.shell_completion import complete_session
from cli.views.sessions import SessionList, transcript
from mlx_qnext.errors import UsageError

if TYPE_CHECKING:
    from mlx_qnext.sessions.library import SessionLibrary

sessions = typer.Typer(rich_markup_mode=None)


@sessions.callback(invoke_without_command=True)
def list_(
    call: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a conversation.")] = False,
) -> None:
    """List the saved conversations, or show or delete some of them. `qnext chat --resume NAME` goes on with one."""
    if call.invoked_subcommand is not None:
        return
    found = [facts_of(info) for info in _library().list()]
    if as_json:
        for facts in found:
            typer.echo(json.dumps(facts, ensure_ascii=False))
    else:
        terminal.out().print(SessionList(found), soft_wrap=False)


@sessions.command()
def show(
    name: Annotated[str, typer.Argument(help="A saved conversation.", autocompletion=complete_session)],
    thinking: Annotated[bool, typer.Option("--thinking", help="The thoughts too.")] = False,
) -> None:
    """Print what was said, as plain text."""
    text = transcript(_library().read(name).messages, thinking=thinking)
    out = terminal.out()
    typer.echo(terminal.visible(text) if out.is_terminal else text, nl=False)


@sessions.command()
def delete(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Saved conversations.", autocompletion=complete_session),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
) -> None:
    """Delete conversations, which nothing brings back. One that is open elsewhere is refused."""
    library = _library()
    _refuse_unknown(library, names)
    if not yes and not _confirmed(names):
        return
    for name in names:
        library.delete(name)


def _library() -> SessionLibrary:
    from mlx_qnext.sessions.library import SessionLibrary

    return SessionLibrary()


def _refuse_unknown(library: SessionLibrary, names: list[str]) -> None:
    """Nothing is deleted where one of them is misspelt.

    Raises:
        UsageError, SessionError: there is no such session.
    """
    listed = {info.name for info in library.list()}
    for name in names:
        if name not in listed:
            library.read(name)


def _confirmed(names: list[str]) -> bool:
    """Whether the user says yes.

    Raises:
        UsageError: nobody can be asked.
    """
    if not terminal.stdin_is_terminal():
        raise UsageError("Nobody can be asked here whether to delete: say so with --yes.")
    return typer.confirm(f"Delete {', '.join(map(terminal.visible, names))}?", err=True)
