"""The pieces of mlx-lm that the engine stands on, imported without mlx-lm's own start-up.

`import mlx_lm` runs a package `__init__` that imports transformers and takes seconds; the modules used here need neither.
They are imported under a bare parent package, which is removed again: a later `import mlx_lm` runs in full and shares these
very classes.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType


def _import_without_package_init(name: str) -> ModuleType:
    if "mlx_lm" in sys.modules:
        return importlib.import_module(name)
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("mlx-lm is not installed in this environment: install it with 'pip install mlx-lm'")
    bare = ModuleType("mlx_lm")
    bare.__path__ = list(spec.submodule_search_locations)
    sys.modules["mlx_lm"] = bare
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules["mlx_lm"]


_cache = _import_without_package_init("mlx_lm.models.cache")
_base = _import_without_package_init("mlx_lm.models.base")
_gated_delta = _import_without_package_init("mlx_lm.models.gated_delta")

KVCache = _cache.KVCache
QuantizedKVCache = _cache.QuantizedKVCache
ArraysCache = _cache.ArraysCache
create_attention_mask = _base.create_attention_mask
create_ssm_mask = _base.create_ssm_mask
scaled_dot_product_attention = _base.scaled_dot_product_attention
gated_delta_kernel = _gated_delta.gated_delta_kernel
