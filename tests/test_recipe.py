"""A recipe gives each matrix what its first matching rule says, and one that cannot be meant is refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import tensor_shapes

from benchmarks.synthetic import FULL_SHAPE
from mlx_qnext.config import ModelConfig
from mlx_qnext.errors import UsageError
from mlx_qnext.quantization import Precision
from quantize.recipe import Recipe, Rule
from quantize.recipe_file import NAMES, find_recipe

LAYERS = 8
COLUMNS = {
    f"model.layers.{n}.mlp.{name}": 128
    for n in range(LAYERS)
    for name in ("switch_mlp.up_proj", "switch_mlp.down_proj", "gate", "shared_expert_gate")
} | {
    "lm_head": 128,
    "mtp.layers.0.mlp.switch_mlp.down_proj": 128,
    "model.layers.0.linear_attn.in_proj_ba": 96,
}

UP, DOWN, GATE = (
    f"model.layers.3.mlp.{name}" for name in ("switch_mlp.up_proj", "switch_mlp.down_proj", "gate")
)
WHOLE = {name: width for name, width in COLUMNS.items() if width == 128}


def recipe(text: str, tmp_path: Path) -> Recipe:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return find_recipe(str(path))


def chosen(text: str, tmp_path: Path) -> dict[str, Precision | None]:
    return recipe(text, tmp_path).precisions(WHOLE, LAYERS)


def test_what_no_rule_matches_gets_the_default_and_gates_eight_bits(tmp_path: Path) -> None:
    precisions = chosen("bits = 3\ngroup_size = 32", tmp_path)
    assert precisions[UP] == Precision(3, 32)
    assert precisions[GATE] == Precision(8, 32)
    assert precisions["model.layers.0.mlp.shared_expert_gate"] == Precision(8, 32)


def test_the_first_rule_that_matches_decides(tmp_path: Path) -> None:
    text = """
    bits = 4
    [[rules]]
    match = "*.switch_mlp.down_proj"
    bits = 6
    group_size = 32
    [[rules]]
    match = ["*.switch_mlp.*"]
    bits = 3
    [[rules]]
    match = "lm_head.weight"
    keep = true
    """
    precisions = chosen(text, tmp_path)
    assert precisions[DOWN] == precisions["mtp.layers.0.mlp.switch_mlp.down_proj"] == Precision(6, 32)
    assert precisions[UP] == Precision(3, 64)
    assert precisions["lm_head"] is None


def test_depth_is_a_part_of_the_trunk_and_nothing_else(tmp_path: Path) -> None:
    text = 'bits = 4\n[[rules]]\nmatch = "*.down_proj"\ndepth = [0.25, 0.75]\nbits = 3'
    precisions = chosen(text, tmp_path)
    finer = {
        n
        for n in range(LAYERS)
        if precisions[f"model.layers.{n}.mlp.switch_mlp.down_proj"] == Precision(3, 64)
    }
    assert finer == {2, 3, 4, 5}
    assert precisions["mtp.layers.0.mlp.switch_mlp.down_proj"] == Precision(4, 64)


@pytest.mark.parametrize(
    ("pattern", "bits"),
    [("*", 8), ("*.mlp.*gate", 8), ("*.mlp.gate", 2), ("model.layers.3.mlp.gate", 2)],
)
def test_gates_fall_below_eight_bits_only_where_they_are_named(
    pattern: str, bits: int, tmp_path: Path
) -> None:
    precisions = chosen(f'bits = 4\n[[rules]]\nmatch = "{pattern}"\nbits = 2', tmp_path)
    assert precisions[GATE] == Precision(bits, 64)


REFUSED = {
    "no TOML": ("bits = ", "is not TOML"),
    "not UTF-8": (b"bits = 4 # \xff", "is not TOML"),
    "no bits": ("group_size = 64", "names no bits"),
    "an unknown key": ("bits = 4\nbitz = 3", "bitz"),
    "an unknown key in a rule": ('bits = 4\n[[rules]]\nmatch = "*"\nbits = 3\ndept = [0, 1]', "dept"),
    "bits that MLX has not": ("bits = 7", "bits = 7"),
    "bits in words": ('bits = "four"', "bits = 'four'"),
    "bits that are true": ("bits = true", "bits = True"),
    "a group size that MLX has not": ("bits = 4\ngroup_size = 48", "group_size = 48"),
    "no rule": ("bits = 4\nrules = 3", "rules = 3"),
    "rules that are no tables": ("bits = 4\nrules = [3]", "rules = 3"),
    "a rule without a pattern": ("bits = 4\n[[rules]]\nbits = 3", "match = None"),
    "an empty pattern": ('bits = 4\n[[rules]]\nmatch = ""\nbits = 3', "match = ''"),
    "a rule that says nothing": ('bits = 4\n[[rules]]\nmatch = "*"', "either bits or keep"),
    "a rule that says both": (
        'bits = 4\n[[rules]]\nmatch = "*"\nbits = 3\nkeep = true',
        "either bits or keep",
    ),
    "a depth that runs backwards": (
        'bits = 4\n[[rules]]\nmatch = "*"\nbits = 3\ndepth = [1, 0]',
        "depth = [1, 0]",
    ),
    "a description that is none": ("bits = 4\ndescription = 3", "description = 3"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_a_file_that_is_no_recipe_is_refused_by_name(row: str, tmp_path: Path) -> None:
    content, phrase = REFUSED[row]
    (tmp_path / "mine.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError) as caught:
        find_recipe(str(tmp_path / "mine.toml"))
    assert phrase in str(caught.value)
    assert "mine.toml" in str(caught.value)


@pytest.mark.parametrize("name", ["5bits", "recipe.json", ""])
def test_a_name_that_is_no_recipe_is_answered_with_those_that_are(name: str) -> None:
    with pytest.raises(UsageError, match="mixed-3-4"):
        find_recipe(name)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        find_recipe(str(tmp_path / "mine.toml"))


UNFIT = {
    "a pattern that matches nothing": ('[[rules]]\nmatch = "*.experts.*"\nbits = 3', "matches no matrix"),
    "a pattern out of its depth": (
        '[[rules]]\nmatch = "model.layers.7.*"\ndepth = [0, 0.5]\nbits = 3',
        "matches no matrix",
    ),
    "a pattern behind another": (
        '[[rules]]\nmatch = "*"\nbits = 3\n[[rules]]\nmatch = "lm_head"\nbits = 6',
        "an earlier rule takes",
    ),
    "a group too large": ('[[rules]]\nmatch = "*.in_proj_ba"\nbits = 4\ngroup_size = 64', "96 columns"),
}


@pytest.mark.parametrize("row", UNFIT)
def test_a_recipe_that_does_not_fit_the_model_is_refused(row: str, tmp_path: Path) -> None:
    text, phrase = UNFIT[row]
    made = recipe(f"bits = 4\ngroup_size = 32\n{text}", tmp_path)
    with pytest.raises(UsageError) as caught:
        made.precisions(COLUMNS, LAYERS)
    assert phrase in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_that_ships_speaks_of_the_full_model_with_every_rule(name: str) -> None:
    shipped = find_recipe(name)
    config = ModelConfig.from_dict(FULL_SHAPE | {"num_experts": 1, "num_experts_per_tok": 1})
    columns = {
        name.removesuffix(".weight").replace(".experts.0.", ".switch_mlp."): shape[-1]
        for name, shape in tensor_shapes(config).items()
        if len(shape) == 2
    }
    strict = Recipe(shipped.name, shipped.description, shipped.default, shipped.rules, strict=True)
    precisions = strict.precisions(columns, config.num_hidden_layers)
    assert shipped.description
    assert all(
        precision and precision.bits >= 8
        for module, precision in precisions.items()
        if module.endswith("gate")
    )


def test_another_group_size_holds_wherever_a_rule_names_none() -> None:
    rules = (Rule(("a",), 3), Rule(("b",), 3, 128))
    changed = Recipe("r", "", Precision(4, 64), rules).with_group_size(32)
    assert changed.precisions({"a": 256, "b": 256, "c": 256}, 1) == {
        "a": Precision(3, 32),
        "b": Precision(3, 128),
        "c": Precision(4, 32),
    }
