"""The file of defaults: one TOML table of settings, read strictly and edited line by line, so that comments survive."""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from json import dumps
from pathlib import Path

from cli.config_settings import Value, find
from mlx_qnext.disk import replacing, writing
from mlx_qnext.errors import OutputError, UsageError
from mlx_qnext.folders import config_file
from mlx_qnext.json_fields import shown

_NOTHING = Path(os.devnull)
_LINES = re.compile(r"[^\n]*\n|[^\n]+")


@dataclass(frozen=True)
class _Statement:
    """Lines of the file that say one thing, or nothing: blank ones and comments. `line` is the first one's number."""

    line: int
    text: str
    values: Mapping[str, object]

    @property
    def is_table(self) -> bool:
        """Whether it begins with a table's name, and goes on to the next one or to the end."""
        return _names_a_table(self.text)


@dataclass(frozen=True)
class ConfigFile:
    """The file as it was when it was read; one that is not there sets nothing.

    Attributes:
        values: by key, checked. lines: where each is set.
        problems: a sentence, with the line, for each that cannot be set so.
    """

    path: Path
    values: Mapping[str, Value]
    lines: Mapping[str, int]
    problems: tuple[str, ...]

    @classmethod
    def read(cls) -> ConfigFile:
        """What it says.

        Raises:
            UsageError: it cannot be read, is not TOML, or sets what cannot be set; the sentence says in which line.
        """
        file = cls.read_in_part()
        if file.problems:
            raise UsageError(file.problems[0])
        return file

    @classmethod
    def read_in_part(cls) -> ConfigFile:
        """What of it can be meant.

        Raises:
            UsageError: it cannot be read, or is not TOML.
        """
        path = config_path()
        values: dict[str, Value] = {}
        lines: dict[str, int] = {}
        problems: list[str] = []
        for statement in _statements(_text(path), path):
            for key, value in statement.values.items():
                try:
                    values[key] = _checked(key, value)
                    lines[key] = statement.line
                except UsageError as error:
                    problems.append(f"{path}, line {statement.line}: {error}")
        return cls(path, values, lines, tuple(problems))


def config_path() -> Path:
    """Where the file is, or would be.

    Raises:
        UsageError: it would lie in the user's home, and there is none.
    """
    try:
        return config_file()
    except RuntimeError:
        raise UsageError(
            "The configuration has no place because you have no home folder: name a file with QNEXT_CONFIG."
        ) from None


def write_setting(key: str, value: Value | None) -> bool:
    """The file sets `key` to `value`, or `None`: not at all; every other line of it is as it was. Whether it is another file
    now.

    Raises:
        UsageError: it is not UTF-8 or not TOML. OutputError: it cannot be written, and is as it was.
    """
    path = config_path()
    statements = list(_statements(_text(path), path))
    texts = [statement.text for statement in statements]
    places = [at for at, statement in enumerate(statements) if key in statement.values]
    if value is None and not places:
        return False
    for at in places:
        texts[at] = ""
    if value is not None:
        comment = _comment(statements[places[0]]) if places else ""
        tables = (at for at, statement in enumerate(statements) if statement.is_table)
        # Behind the name of a table it would be of that table.
        at = next(iter([*places, *tables]), len(texts))
        if at and texts[at - 1] and not texts[at - 1].endswith("\n"):
            texts[at - 1] += "\n"
        texts.insert(at, _line(key, value, comment))
    _replace(path, "".join(texts))
    return True


def _checked(key: str, value: object) -> Value:
    if isinstance(value, dict):
        raise UsageError(
            f"{shown(key)} is a table, and settings are in none: qnext config unset takes it out."
        )
    return find(key).checked(value)


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file() and path != _NOTHING:
            raise UsageError(
                f"{path} cannot be read, because it is no file: name another one with QNEXT_CONFIG."
            )
        return path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}): check it, or name another file with QNEXT_CONFIG."
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 (byte {error.start}): convert it, for example with iconv."
        ) from None


def _statements(text: str, path: Path) -> Iterator[_Statement]:
    """All of the text, in parts that are TOML each.

    Raises:
        UsageError: it is none as a whole.
    """
    try:
        tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML ({error}): correct it there.") from None
    part, first = "", 1
    for number, line in enumerate([*_LINES.findall(text), None], start=1):
        # What goes on in the next line is not whole until then.
        values = _parsed(part) if part else None
        if values is not None and (line is None or _names_a_table(line) or not _names_a_table(part)):
            yield _Statement(first, part, values)
            part, first = "", number
        part += line or ""


def _names_a_table(text: str) -> bool:
    return text.lstrip().startswith("[")


def _parsed(text: str) -> dict[str, object] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _comment(statement: _Statement) -> str:
    """What follows the value in its last line."""
    text = statement.text.rstrip("\r\n")
    for found in re.finditer(r"[ \t]*#", text):
        if _parsed(text[: found.start()]) == statement.values:
            return text[found.start() :]
    return ""


def _line(key: str, value: Value, comment: str) -> str:
    return f"{key} = {_toml(value)}{comment}\n"


def _toml(value: Value) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str | bool):
        # A string in JSON is one in TOML too, where its one character that only JSON allows is escaped.
        return dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _replace(path: Path, text: str) -> None:
    # A link, as people have who keep their settings elsewhere, stays one.
    target = path.resolve()
    if target == _NOTHING:
        raise OutputError(f"{path} keeps nothing: name a file with QNEXT_CONFIG.")
    with writing(target, "set it again"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as fresh:
            fresh.write_bytes(text.encode("utf-8", "replace"))
            if target.exists():
                shutil.copymode(target, fresh)
