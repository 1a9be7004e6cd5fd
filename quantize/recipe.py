"""Which precision each matrix gets: rules by the module's name and depth, the first that matches decides."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from mlx_qnext.errors import UsageError
from mlx_qnext.json_fields import shown
from mlx_qnext.quantization import Precision

# One wrong expert costs more than the bits saved here.
GATES = ("gate", "shared_expert_gate")
GATE_BITS = 8

_TRUNK_LAYER = re.compile(r"model\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Rule:
    """What matches and what it gets.

    Attributes:
        patterns: of module names, as the MLX layout spells them without `.weight`; `*` stands for anything.
        bits: `None` keeps the matrix as it is. group_size: `None` is the recipe's own.
        depth: the part [from, to) of the trunk's layers, 0 the first and 1 behind the last; other modules never match.
            `None` asks for no depth.
    """

    patterns: tuple[str, ...]
    bits: int | None
    group_size: int | None = None
    depth: tuple[float, float] | None = None

    def matches(self, module: str, layers: int) -> bool:
        """Whether the rule speaks of this module, in a trunk of so many layers."""
        return self._within(module, layers) and any(fnmatchcase(module, pattern) for pattern in self.patterns)

    def names(self, module: str) -> bool:
        """Whether a pattern spells the module's last component out."""
        last = module.rpartition(".")[2]
        return any(
            fnmatchcase(module, pattern) and pattern.rpartition(".")[2] == last for pattern in self.patterns
        )

    def _within(self, module: str, layers: int) -> bool:
        if self.depth is None:
            return True
        match = _TRUNK_LAYER.match(module)
        return match is not None and self.depth[0] <= int(match[1]) / layers < self.depth[1]


@dataclass(frozen=True)
class Recipe:
    """Rules, and what everything else gets.

    Routers and shared-expert gates get 8 bits where a rule does not name them outright, whatever else they match.

    Attributes:
        name: what the user calls it. description: one sentence.
        strict: whether each pattern has to match something; a recipe that ships speaks of every model of the family.
    """

    name: str
    description: str
    default: Precision
    rules: tuple[Rule, ...] = ()
    strict: bool = False

    def with_group_size(self, group_size: int) -> Recipe:
        """The recipe with another group size wherever a rule names none."""
        return replace(self, default=Precision(self.default.bits, group_size))

    def precisions(self, columns: Mapping[str, int], layers: int) -> dict[str, Precision | None]:
        """Module → precision; `None` where the matrix stays as it is.

        Args:
            columns: the width of each module's matrix. layers: of the trunk.

        Raises:
            UsageError: a group size divides a matrix's columns not, or, in a strict recipe, a pattern matches nothing.
        """
        if self.strict:
            self._check_patterns(columns.keys(), layers)
        chosen = {module: self._precision(module, layers) for module in columns}
        for module, precision in chosen.items():
            if precision and columns[module] % precision.group_size:
                raise UsageError(
                    f"{module} has {columns[module]} columns, which groups of {precision.group_size} do not divide: give it a "
                    f"smaller group_size, or keep = true, by a rule of its own in the recipe ({self.name})."
                )
        return chosen

    def _precision(self, module: str, layers: int) -> Precision | None:
        rule = next((rule for rule in self.rules if rule.matches(module, layers)), None)
        if rule is None:
            return self._guarded(module, self.default)
        if rule.bits is None:
            return None
        precision = Precision(rule.bits, rule.group_size or self.default.group_size)
        return precision if rule.names(module) else self._guarded(module, precision)

    @staticmethod
    def _guarded(module: str, precision: Precision) -> Precision:
        if module.rpartition(".")[2] in GATES and module.rpartition(".")[0].endswith(".mlp"):
            return Precision(max(precision.bits, GATE_BITS), precision.group_size)
        return precision

    def _check_patterns(self, modules: Collection[str], layers: int) -> None:
        free = set(modules)
        for rule in self.rules:
            for pattern in rule.patterns:
                alone = replace(rule, patterns=(pattern,))
                taken = {module for module in free if alone.matches(module, layers)}
                if not taken:
                    raise UsageError(self._unmatched(alone, pattern, modules, layers))
                free -= taken

    def _unmatched(self, rule: Rule, pattern: str, modules: Collection[str], layers: int) -> str:
        hidden = any(rule.matches(module, layers) for module in modules)
        found = "matches only what an earlier rule takes" if hidden else "matches no matrix of this model"
        return (
            f"The pattern {shown(pattern)} of recipe {self.name} {found}: correct it or remove it; names are spelled as in "
            f"{shown(min(modules, default=''))}."
        )
