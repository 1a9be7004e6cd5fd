"""qnext: Qwen3-Next on MLX.

    engine = mlx_qnext.load("demo")
    for event in engine.session().generate([{"role": "user", "content": "What is 47 + 85?"}]):
        ...

`load` gives an engine, `load_model` the bare network. Importing this package imports neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_qnext.generate.engine import Engine, load
    from mlx_qnext.generate.request import GenerationConfig
    from mlx_qnext.generate.session import Session
    from mlx_qnext.model.loading import load_model

__all__ = ["Engine", "GenerationConfig", "Session", "load", "load_model"]

# Where each public name lives; looked up on first use, so that `import mlx_qnext` costs nothing.
_HOMES = {
    "Engine": "mlx_qnext.generate.engine",
    "GenerationConfig": "mlx_qnext.generate.request",
    "Session": "mlx_qnext.generate.session",
    "load": "mlx_qnext.generate.engine",
    "load_model": "mlx_qnext.model.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mlx_qnext' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
