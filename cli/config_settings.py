"""What a configuration file may set: the options that commands share, under their own names."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache
from types import NoneType
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from cli import options
from cli.chat import chat
from cli.generate import generate
from cli.loading import EMBEDDED
from cli.options import MODEL_VARIABLE
from mlx_qnext.errors import UsageError
from mlx_qnext.generate.request import GenerationConfig
from mlx_qnext.json_fields import shown

Value: TypeAlias = bool | int | float | str | list[str]

VARIABLES = {"model": MODEL_VARIABLE}
# What is shown where the model, or nothing, says what holds.
UNSET = "–"

# Names of options that are not those of the request's fields.
_FIELDS = {"temp": "temperature", "think_budget": "thinking_budget"}
# The request's own `thinking` is another matter than what becomes of the thought on screen.
_REQUEST_FIELDS = {field.name for field in fields(GenerationConfig)} - {"thinking"}
_NO_SAMPLING: options.Sampling = {
    "temperature": None,
    "top_p": None,
    "top_k": None,
    "min_p": None,
    "repetition_penalty": None,
    "presence_penalty": None,
    "seed": None,
}
_ROOM = {"memory": "auto", "context": "auto", "kv_bits": 16}
# Text on the command line, and a number to everybody.
_TEXT_OR_NUMBER = ("draft", "memory", "context")
_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list of texts",
}


@dataclass(frozen=True)
class Setting:
    """One option that can be set.

    Attributes:
        name: of the commands' parameter. kind: bool, int, float, str or list, of texts.
        choices: the texts there are; empty where any will do.
    """

    name: str
    kind: type
    choices: tuple[str, ...]

    @property
    def key(self) -> str:
        """As the file and the command line spell it."""
        return self.name.replace("_", "-")

    @property
    def built_in(self) -> str:
        """What holds where nothing sets it; a dash is what the model says, or nothing."""
        if self.name == "model":
            return EMBEDDED
        found = {
            command.__name__: _default(command, self.name)
            for command in (chat, generate)
            if _takes(command, self.name)
        }
        if len(set(found.values())) == 1:
            return found[chat.__name__]
        return ", ".join(f"{value} ({command})" for command, value in found.items())

    def parsed(self, words: Sequence[str]) -> Value:
        """The value that these words of a command line mean.

        Raises:
            UsageError: they mean none.
        """
        if self.kind is list:
            return self.checked(list(words))
        if len(words) != 1:
            raise UsageError(f"{self.key} has {len(words)} values, expected one: put text into quotes.")
        return self.checked(_read_as(self.kind, words[0]))

    def checked(self, value: object) -> Value:
        """The value, as commands take it.

        Raises:
            UsageError: it is of another type, or cannot be meant.
        """
        if self.name in _TEXT_OR_NUMBER and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not self._is_sound(value):
            raise UsageError(f"{self.key} is {shown(value)}, expected {self._expected}.")
        _refuse_out_of_range(self.name, value)
        return value  # pyright: ignore[reportReturnType]

    @property
    def _expected(self) -> str:
        return " or ".join(self.choices) if self.choices else _EXPECTED[self.kind]

    def _is_sound(self, value: object) -> bool:
        if self.choices:
            return value in self.choices
        if self.kind is list:
            return isinstance(value, list) and all(isinstance(text, str) for text in value)
        if self.kind is float:
            return isinstance(value, int | float) and not isinstance(value, bool)
        return type(value) is self.kind


@cache
def settings() -> dict[str, Setting]:
    """All there are, by key, in the order of the commands' help."""
    shared = list(vars(options).values())
    hints = get_type_hints(chat, include_extras=True)
    found = [_setting(name, get_args(hint)[0]) for name, hint in hints.items() if hint in shared]
    return {setting.key: setting for setting in found}


def find(key: str) -> Setting:
    """The setting of this key.

    Raises:
        UsageError: there is none.
    """
    known = settings()
    if key in known:
        return known[key]
    near = difflib.get_close_matches(key.replace("_", "-").lower(), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(known)}."
    raise UsageError(f"{shown(key)} is no setting: {hint}")


def text_of(value: Value) -> str:
    """A value as people read it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(shown, value)) if isinstance(value, list) else str(value) or shown(value)


def _setting(name: str, hint: Any) -> Setting:
    if NoneType in get_args(hint):
        (hint,) = (each for each in get_args(hint) if each is not NoneType)
    if get_origin(hint) is Literal:
        return Setting(name, str, get_args(hint))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return Setting(name, str, tuple(each.value for each in hint))
    return Setting(name, get_origin(hint) or hint, ())


def _takes(command: Any, name: str) -> bool:
    return name in inspect.signature(command).parameters


def _default(command: Any, name: str) -> str:
    value = inspect.signature(command).parameters[name].default
    if isinstance(value, Enum):
        value = value.value
    return UNSET if value is None else text_of(value)


def _read_as(kind: type, word: str) -> object:
    """The word itself where it cannot be read so."""
    if kind is bool:
        return {"true": True, "false": False}.get(word.lower(), word)
    try:
        return kind(word)
    except ValueError:
        return word


def _refuse_out_of_range(name: str, value: Any) -> None:
    field = _FIELDS.get(name, name)
    if name in _ROOM:
        options.room(**(_ROOM | {name: value}))
    elif name == "draft":
        options.request(
            _NO_SAMPLING, max_tokens=None, stop=None, no_think=False, draft=value, when_full="stop"
        )
    elif field in _REQUEST_FIELDS:
        given: dict[str, Any] = {field: tuple(value) if isinstance(value, list) else value}
        GenerationConfig(**given)
