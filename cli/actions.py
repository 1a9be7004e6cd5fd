"""What a line of a chat asks the chat to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from rich.console import RenderableType

from cli.conversation import Question


@dataclass(frozen=True)
class Ask:
    """Answer this; where it was asked before, another answer is wanted."""

    question: Question
    again: bool = False


@dataclass(frozen=True)
class Say:
    """Show this to the user."""

    shown: RenderableType


@dataclass(frozen=True)
class Nothing:
    """An empty line."""


@dataclass(frozen=True)
class Clear:
    """Begin another conversation."""


@dataclass(frozen=True)
class Attach:
    """Put this file into the next question."""

    path: str


@dataclass(frozen=True)
class Change:
    """Give a setting another value; without one show it, and without a name show all."""

    name: str | None
    value: str | None


@dataclass(frozen=True)
class ShowFigures:
    """Show what the last answer and the whole conversation came to."""


@dataclass(frozen=True)
class UseModel:
    """Go on with this model; without one, say which it is."""

    name: str | None


@dataclass(frozen=True)
class Export:
    """Write the conversation into a file, whose name says how."""

    path: str
    thinking: bool
    overwrite: bool


@dataclass(frozen=True)
class Save:
    """Keep the conversation on disk, under this name; without one, as it is named already, or by the time."""

    name: str | None


@dataclass(frozen=True)
class Load:
    """Go on with this saved conversation instead."""

    name: str


@dataclass(frozen=True)
class ListSaved:
    """Show which conversations are saved."""


@dataclass(frozen=True)
class Leave:
    """The end."""


Action: TypeAlias = (
    Ask
    | Say
    | Nothing
    | Clear
    | Attach
    | Change
    | ShowFigures
    | UseModel
    | Export
    | Save
    | Load
    | ListSaved
    | Leave
)
