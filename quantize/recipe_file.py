"""Recipes as data: those that ship, by name, and the user's own, in TOML.

description = "one sentence"
bits = 4                 # what no rule matches
group_size = 64

[[rules]]                # the first that matches decides
match = ["model.layers.*.mlp.switch_mlp.down_proj"]
depth = [0.0, 0.25]      # optional: only in this part of the trunk
bits = 6                 # or keep = true: as the source has it
group_size = 32          # optional
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import NoReturn

from mlx_qnext.errors import UsageError
from mlx_qnext.json_fields import shown
from mlx_qnext.quantization import BITS, GROUP_SIZES, Precision
from quantize.recipe import Recipe, Rule

NAMES = ("3bit", "mixed-3-4", "4bit", "5bit", "6bit", "8bit")
MAX_BYTES = 1 << 20

_RECIPE_KEYS = frozenset({"description", "bits", "group_size", "rules"})
_RULE_KEYS = frozenset({"match", "depth", "bits", "keep", "group_size"})


def find_recipe(name: str) -> Recipe:
    """The recipe that ships under this name, or that of a TOML file at this path.

    Raises:
        UsageError: neither, or the file is no recipe.
    """
    if name in NAMES:
        content = resources.files("quantize").joinpath("recipes", f"{name}.toml").read_bytes()
        return _parse(content, name, strict=False)
    path = Path(name)
    if path.suffix != ".toml":
        raise UsageError(f"{shown(name)} is no recipe: name one of {', '.join(NAMES)}, or a .toml file.")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} has {path.stat().st_size} bytes, expected a recipe of a few lines.")
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): check the path.") from None
    return _parse(content, str(path), strict=True)


def _parse(content: bytes, source: str, *, strict: bool) -> Recipe:
    try:
        table = tomllib.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{source} is not TOML ({error}): correct it.") from None
    _check_keys(table, _RECIPE_KEYS, source)
    bits, group_size = _bits(table, source), _group_size(table, source)
    if bits is None:
        raise UsageError(f"{source} names no bits for what no rule matches: add `bits = 4`.")
    rules = table.get("rules", [])
    if not isinstance(rules, list):
        _refuse(source, "rules", rules, "[[rules]] tables")
    return Recipe(
        name=Path(source).stem if strict else source,
        description=_text(table, source),
        default=Precision(bits, group_size or GROUP_SIZES[1]),
        rules=tuple(_rule(rule, f"{source}, rule {n}") for n, rule in enumerate(rules, 1)),
        strict=strict,
    )


def _rule(table: object, where: str) -> Rule:
    if not isinstance(table, dict):
        _refuse(where, "rules", table, "[[rules]] tables")
    _check_keys(table, _RULE_KEYS, where)
    bits = _bits(table, where)
    keep = table.get("keep", False)
    if not isinstance(keep, bool):
        _refuse(where, "keep", keep, "true")
    if (bits is None) != keep:
        raise UsageError(f"{where} needs either bits or keep = true: write one of them.")
    return Rule(_patterns(table, where), bits, _group_size(table, where), _depth(table, where))


def _check_keys(table: Mapping[str, object], known: frozenset[str], where: str) -> None:
    unknown = sorted(table.keys() - known)
    if unknown:
        raise UsageError(
            f"{where} has the unknown key {shown(unknown[0])}: known are {', '.join(sorted(known))}."
        )


def _text(table: Mapping[str, object], where: str) -> str:
    value = table.get("description", "")
    if not isinstance(value, str):
        _refuse(where, "description", value, "a sentence")
    return value


def _bits(table: Mapping[str, object], where: str) -> int | None:
    return _one_of(table, "bits", BITS, where)


def _group_size(table: Mapping[str, object], where: str) -> int | None:
    return _one_of(table, "group_size", GROUP_SIZES, where)


def _one_of(table: Mapping[str, object], key: str, allowed: tuple[int, ...], where: str) -> int | None:
    value = table.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
        _refuse(where, key, value, f"one of {', '.join(map(str, allowed))}")
    return value


def _patterns(table: Mapping[str, object], where: str) -> tuple[str, ...]:
    value = table.get("match")
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, list) or not patterns or not all(isinstance(p, str) and p for p in patterns):
        _refuse(where, "match", value, "a pattern or a list of them")
    return tuple(pattern.removesuffix(".weight") for pattern in patterns)


def _depth(table: Mapping[str, object], where: str) -> tuple[float, float] | None:
    value = table.get("depth")
    if value is None:
        return None
    numbers = (
        [float(item) for item in value if isinstance(item, (int, float))] if isinstance(value, list) else []
    )
    if len(numbers) != 2 or not 0 <= numbers[0] < numbers[1] <= 1:
        _refuse(where, "depth", value, "two numbers from 0 to 1, the smaller one first")
    return numbers[0], numbers[1]


def _refuse(where: str, key: str, value: object, expected: str) -> NoReturn:
    raise UsageError(f"{where} has {key} = {shown(value)}, expected {expected}.")
