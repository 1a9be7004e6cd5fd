"""The lines of a batch: what each asks, or why it asks nothing."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from mlx_qnext.errors import UsageError
from mlx_qnext.generate.batch_request import BatchRequest
from mlx_qnext.generate.request import GenerationConfig
from mlx_qnext.json_fields import shown

Id: TypeAlias = str | int

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "seed")
LIMITS = ("max_tokens", "thinking_budget")
# Few enough to read over, and so many that two requests never share them by chance.
_DIGEST_DIGITS = 16
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
FIELDS = ("id", "prompt", "messages", *SAMPLING, *LIMITS, "thinking", "stop", "tools")


@dataclass(frozen=True)
class Entry:
    """One line.

    Attributes:
        line: its number, from 1. id: `None` where it has none that could be told.
        asked: its request, or why it has none.
    """

    line: int
    id: Id | None
    asked: BatchRequest | str

    @property
    def digest(self) -> str | None:
        """Tells its messages and tools from others; `None` where it asks nothing."""
        if isinstance(self.asked, str):
            return None
        content = json.dumps([list(self.asked.messages), self.asked.tools], sort_keys=True)
        return sha256(content.encode()).hexdigest()[:_DIGEST_DIGITS]


def entries(content: bytes, name: str, system: str | None, config: GenerationConfig) -> list[Entry]:
    """Everything that is asked, by line; empty lines ask nothing.

    A file whose name ends in .txt, or whose first line does not begin as a JSON object, has one prompt a line, and ids are its
    line numbers. `config` and `system` hold for every line that says nothing else.

    Raises:
        UsageError: nothing is asked, or in another encoding than UTF-8.
    """
    if content.startswith(_UTF16):
        raise UsageError(f"{name} is UTF-16: convert it to UTF-8, for example with iconv.")
    lines = [(number, line) for number, line in enumerate(_lines(content), 1) if line.strip()]
    if not lines:
        raise UsageError(f"{name} is empty: write a prompt or a JSON object on each line.")
    plain = Path(name).suffix == ".txt" or not lines[0][1].lstrip().startswith(b"{")
    read = _Plain(system, config) if plain else _Json(system, config)
    return list(_distinct(read.entry(number, line) for number, line in lines))


def _lines(content: bytes) -> list[bytes]:
    return content.removeprefix(b"\xef\xbb\xbf").split(b"\n")


def _distinct(found: Iterator[Entry]) -> Iterator[Entry]:
    """The same, but for ids that an earlier line has already."""
    first: dict[Id, int] = {}
    for entry in found:
        if entry.id is None or entry.id not in first:
            if entry.id is not None:
                first[entry.id] = entry.line
            yield entry
        else:
            reason = (
                f"line {entry.line} has the id {shown(entry.id)} of line {first[entry.id]}: give it its own."
            )
            yield replace(entry, asked=reason)


class _BadLineError(Exception):
    """Its text says what is wrong with the line."""


@dataclass(frozen=True)
class _Plain:
    """Lines that are prompts."""

    system: str | None
    config: GenerationConfig

    def entry(self, number: int, line: bytes) -> Entry:
        try:
            messages = _with_system([_user(_decoded(line).strip())], self.system)
        except _BadLineError as error:
            return Entry(number, number, f"line {number} {error}")
        return Entry(number, number, BatchRequest(messages, self.config))


@dataclass(frozen=True)
class _Json:
    """Lines that are objects."""

    system: str | None
    config: GenerationConfig

    def entry(self, number: int, line: bytes) -> Entry:
        own: Id | None = None
        try:
            fields = _object(line)
            own = _id(fields)
            return Entry(number, own, self._request(fields))
        except (_BadLineError, UsageError) as error:
            return Entry(number, own, f"line {number} {_as_its_own(error)}")

    def _request(self, fields: dict[str, Any]) -> BatchRequest:
        for name in fields:
            if name not in FIELDS:
                near = difflib.get_close_matches(name, FIELDS, n=1)
                hint = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(FIELDS)}."
                raise _BadLineError(f"has a field {shown(name)}: {hint}")
        given = {name: value for name, value in fields.items() if value is not None}
        messages = _with_system(_messages(given), self.system)
        return BatchRequest(messages, replace(self.config, **_settings(given)), _tools(given))


def _as_its_own(error: Exception) -> str:
    return str(error) if isinstance(error, _BadLineError) else f"cannot be asked: {error}"


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(_decoded(line))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else shown(str(error))
        raise _BadLineError(f"is not JSON ({reason}): write one object a line.") from None
    return value if isinstance(value, dict) else _wrong("line", value, "an object")


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise _BadLineError(
            f"is not UTF-8 (byte {error.start}): convert it, for example with iconv."
        ) from None


def _id(fields: dict[str, Any]) -> Id:
    value = fields.get("id")
    if value is None:
        raise _BadLineError("has no id: give each line one of its own.")
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        _wrong("id", value, "a string or a whole number")
    if isinstance(value, str) and not _is_text(value):
        _wrong("id", value, "valid Unicode")
    return value


def _messages(given: dict[str, Any]) -> list[dict[str, Any]]:
    if ("prompt" in given) == ("messages" in given):
        raise _BadLineError("needs either a prompt or messages.")
    if "prompt" in given:
        prompt = given["prompt"]
        if not isinstance(prompt, str) or not prompt.strip():
            _wrong("prompt", prompt, "text")
        return [_user(prompt)]
    messages = given["messages"]
    sound = isinstance(messages, list) and messages and all(map(_is_message, messages))
    return messages if sound else _wrong("messages", messages, "a list of objects with role and content")


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str)


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """What the line says of the `GenerationConfig`, which then checks the values."""
    settings: dict[str, Any] = {}
    for name in (*SAMPLING, *LIMITS):
        if name in given:
            value = given[name]
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            settings[name] = value if number else _wrong(name, value, "a number")
    if "thinking" in given:
        value = given["thinking"]
        settings["thinking"] = (
            value if isinstance(value, bool) else _wrong("thinking", value, "true or false")
        )
    if "stop" in given:
        value = given["stop"]
        stop = [value] if isinstance(value, str) else value
        sound = isinstance(stop, list) and all(isinstance(text, str) for text in stop)
        settings["stop"] = tuple(stop) if sound else _wrong("stop", value, "a string or a list of strings")
    return settings


def _tools(given: dict[str, Any]) -> Sequence[dict[str, Any]] | None:
    tools = given.get("tools")
    if tools is None or (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        return tools or None
    return _wrong("tools", tools, "a list of objects")


def _with_system(messages: list[dict[str, Any]], system: str | None) -> list[dict[str, Any]]:
    if not system or messages[0].get("role") == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong(name: str, value: object, expected: str) -> NoReturn:
    raise _BadLineError(f"has {name} = {shown(value)}, expected {expected}.")
