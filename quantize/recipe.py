"""Which precision each matrix gets."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_qnext.quantization import Precision

# One wrong expert costs more than the bits saved here.
_GATES = (".mlp.gate", ".mlp.shared_expert_gate")
_GATE_BITS = 8


@dataclass(frozen=True)
class Recipe:
    """Every matrix at one precision, routers and shared-expert gates at 8 bits."""

    default: Precision

    def precision_of(self, module: str, columns: int) -> Precision | None:
        """The precision of a module's weight; `None` where its columns do not divide into groups and it stays plain."""
        group_size = self.default.group_size
        if columns % group_size:
            return None
        return Precision(_GATE_BITS, group_size) if module.endswith(_GATES) else self.default
