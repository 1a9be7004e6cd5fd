"""Settings of a chat that can be changed while it lasts."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cli.settings import Settings
from mlx_qnext.errors import UsageError

if TYPE_CHECKING:
    from mlx_qnext.generation_defaults import GenerationDefaults

DEFAULT = "default"
_SWITCH = {"on": False, "off": True}
# As the request's fields, and those of JSON, are called.
_OTHER_NAMES = {"temperature": "temp", "thinking-budget": "think-budget"}


@dataclass(frozen=True)
class Shown:
    """A setting for people: its value, and where that comes from."""

    name: str
    value: str
    origin: str


@dataclass(frozen=True)
class _Adjustable:
    """One of them.

    Attributes:
        name: as after `/set`, and as the option. field: of `Settings`.
        read: the value that a word means; raises `ValueError`. expected: what it may be, in words.
        default: the field of `GenerationDefaults` that holds where it is not set, or what happens then, in words.
    """

    name: str
    field: str
    read: Callable[[str], Any]
    expected: str
    default: str

    def shown(self, settings: Settings, defaults: GenerationDefaults) -> Shown:
        value = getattr(settings, self.field)
        if value != _unset(self.field):
            return Shown(self.name, _word(value), "set")
        if hasattr(defaults, self.default):
            return Shown(self.name, _word(getattr(defaults, self.default)), "the model's own")
        return Shown(self.name, self.default, DEFAULT)


def _switch(word: str) -> bool:
    if word not in _SWITCH:
        raise ValueError(word)
    return _SWITCH[word]


_ADJUSTABLE = {
    each.name: each
    for each in (
        _Adjustable("temp", "temp", float, "a number", "temperature"),
        _Adjustable("top-p", "top_p", float, "a number", "top_p"),
        _Adjustable("top-k", "top_k", int, "a whole number", "top_k"),
        _Adjustable("min-p", "min_p", float, "a number", "min_p"),
        _Adjustable("repetition-penalty", "repetition_penalty", float, "a number", "repetition_penalty"),
        _Adjustable("presence-penalty", "presence_penalty", float, "a number", "presence_penalty"),
        _Adjustable("seed", "seed", int, "a whole number", "drawn anew for each answer"),
        _Adjustable("max-tokens", "max_tokens", int, "a whole number", "what the context leaves"),
        _Adjustable("draft", "draft", str, "auto, a number", "auto"),
        _Adjustable("think", "no_think", _switch, "on, off", "on"),
        _Adjustable("think-budget", "think_budget", int, "a whole number", "no limit"),
    )
}

NAMES = tuple(_ADJUSTABLE)


def changed(settings: Settings, name: str, value: str) -> Settings:
    """The settings with another value for one of them; `default` is that of the model, or of the program.

    Raises:
        UsageError: there is no such setting, or the value cannot be meant.
    """
    adjustable, value = _named(name), value.lower()
    if value == DEFAULT:
        return replace(settings, **{adjustable.field: _unset(adjustable.field)})
    try:
        read = adjustable.read(value)
    except ValueError:
        raise UsageError(
            f"{adjustable.name} is {value!r}, expected {adjustable.expected} or {DEFAULT}."
        ) from None
    found = replace(settings, **{adjustable.field: read})
    # Checked as the options are.
    found.request()
    return found


def shown(settings: Settings, defaults: GenerationDefaults, name: str | None = None) -> Iterator[Shown]:
    """All of them, or the one of this name.

    Raises:
        UsageError: there is no such setting.
    """
    for adjustable in _ADJUSTABLE.values() if name is None else [_named(name)]:
        yield adjustable.shown(settings, defaults)


def _named(name: str) -> _Adjustable:
    folded = name.removeprefix("--").lower().replace("_", "-")
    known = _ADJUSTABLE.get(_OTHER_NAMES.get(folded, folded))
    if known is None:
        near = difflib.get_close_matches(folded, NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(NAMES)}."
        raise UsageError(f"There is no setting {name}: {hint}")
    return known


def _unset(field: str) -> object:
    return {"draft": "auto", "no_think": False}.get(field)


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "off" if value else "on"
    return f"{value:g}" if isinstance(value, float) else str(value)
