"""The result as a checkpoint before it exists: what will lie where, for everything that asks headers alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from mlx_qnext.checkpoint import Checkpoint
from quantize.output_files import METADATA
from quantize.plan import Plan

_DTYPES = {"U32": mx.uint32, "BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}


class PlannedCheckpoint(Checkpoint):
    """A checkpoint whose tensors are nothing yet."""

    @classmethod
    def of(cls, plan: Plan, folder: Path, target: Checkpoint | None) -> PlannedCheckpoint:
        """What the plan makes in `folder`, beside what `target` holds, where the plan adds to it."""
        made = {t.name: replace(t, file=folder / t.file) for file in plan.files for t in file.tensors}
        tensors = {**(target.tensors if target else {}), **made}
        metadata = {tensor.file.name: METADATA for tensor in tensors.values()}
        has_mtp = any(name.startswith("mtp.") for name in tensors)
        return cls(folder, plan.config, tensors, metadata, "mlx", "mlx" if has_mtp else None)

    def arrays(self, names: Iterable[str]) -> dict[str, mx.array]:
        """Unevaluated zeros in the right shapes and dtypes: enough to put a model together, not to run it."""
        infos = {name: self.tensors[name] for name in names}
        return {name: mx.zeros(info.shape, _DTYPES[info.dtype]) for name, info in infos.items()}
