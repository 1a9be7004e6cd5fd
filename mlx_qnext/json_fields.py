"""JSON files written by strangers: read whole or refused, and every field checked where it is taken.

Each refusal is one `CheckpointError` that says which file, what was found, and what was expected. Values are
shown shortened and escaped, because a damaged file may hold anything.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mlx_qnext.errors import CheckpointError

MAX_JSON_BYTES = 64 * 1024 * 1024
REMEDY = "download the model again or choose another one"

# Wide enough for the longest tensor name.
_REPR = reprlib.Repr()
_REPR.maxstring = 100


def shown(value: object) -> str:
    """A value as an error message shows it: short, on one line, printable on any terminal."""
    return _REPR.repr(value).encode("ascii", "backslashreplace").decode()


def read_json_object(path: Path) -> dict[str, object]:
    """The JSON object in a file of at most `MAX_JSON_BYTES`.

    Raises:
        CheckpointError: the file is missing, unreadable, too large, or not one JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(
                f"{path} has {path.stat().st_size} bytes, expected at most {MAX_JSON_BYTES}: {REMEDY}."
            )
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}: {REMEDY}.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): check its permissions.") from None
    return parse_json_object(content, str(path))


def parse_json_object(content: bytes, source: str) -> dict[str, object]:
    """The JSON object in `content`; `source` names it in errors. A key that occurs twice is refused.

    Raises:
        CheckpointError: not UTF-8, not JSON, nested too deeply, or not an object.
    """
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except _DuplicateKeyError as error:
        raise CheckpointError(f"{source} holds the key {error} twice: {REMEDY}.") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else shown(str(error))
        raise CheckpointError(f"{source} is not valid JSON ({reason}): {REMEDY}.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{source} holds a {type(value).__name__}, expected a JSON object: {REMEDY}.")
    return value


class _DuplicateKeyError(Exception):
    """Its text is the key."""


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in pairs:
        if name in values:
            raise _DuplicateKeyError(shown(name))
        values[name] = value
    return values


@dataclass(frozen=True)
class Fields:
    """A JSON object whose fields are taken one by one; `source` names it in errors.

    A field that is absent or null takes its default, and is refused where there is none. A field that is
    present and of the wrong type or range is always refused: a default never hides it.
    """

    values: dict[str, object]
    source: str

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.values.get(name) is not None

    def integer(self, name: str, *, low: int, high: int, default: int | None = None) -> int:
        """An integer in [low, high]; neither a bool nor a float is one."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(name, value, f"an integer from {low} to {high}")
        return value

    def number(self, name: str, *, low: float, high: float, default: float | None = None) -> float:
        """A finite number in [low, high]."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise self.error(name, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def optional_number(self, name: str, *, low: float, high: float) -> float | None:
        """As `number`, or `None` where the field is absent or null."""
        return self.number(name, low=low, high=high) if self.has(name) else None

    def flag(self, name: str, *, default: bool | None = None) -> bool:
        """True or false, and nothing that merely counts as either."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise self.error(name, value, "true or false")
        return value

    def text(self, name: str, *, default: str | None = None) -> str:
        """A string."""
        value = self._take(name, default)
        if not isinstance(value, str):
            raise self.error(name, value, "a string")
        return value

    def integers(self, name: str, *, low: int, high: int) -> tuple[int, ...]:
        """A list of integers in [low, high], or one of them alone; absent is empty."""
        value = self._take(name, [])
        items = value if isinstance(value, list) else [value]
        accepted = tuple(
            item
            for item in items
            if isinstance(item, int) and not isinstance(item, bool) and low <= item <= high
        )
        if len(accepted) != len(items):
            raise self.error(name, value, f"integers from {low} to {high}")
        return accepted

    def texts(self, name: str, *, allowed: Iterable[str], count: int) -> tuple[str, ...]:
        """A list of exactly `count` strings, each one of `allowed`."""
        value = self._take(name, None)
        choices = tuple(allowed)
        if not isinstance(value, list) or len(value) != count or not all(item in choices for item in value):
            raise self.error(name, value, f"a list of {count} strings out of {', '.join(choices)}")
        return tuple(value)

    def object(self, name: str) -> Fields:
        """A nested object; absent is empty."""
        value = self._take(name, {})
        if not isinstance(value, dict):
            raise self.error(name, value, "an object")
        return Fields(value, f"{self.source}: {name}")

    def error(self, name: str, value: object, expected: str) -> CheckpointError:
        """The refusal of one field's value."""
        return CheckpointError(f"{self.source} has {name} = {shown(value)}, expected {expected}: {REMEDY}.")

    def _take(self, name: str, default: object) -> object:
        value = self.values.get(name)
        if value is None:
            value = default
        if value is None:
            raise CheckpointError(f"{self.source} has no {name}, which it must name: {REMEDY}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(name, value, "a finite number")
        return value
