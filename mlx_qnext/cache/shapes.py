"""What the arrays of a session's cache look like, from the model's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx

from mlx_qnext.cache.kv import KV_GROUP
from mlx_qnext.config import ModelConfig

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class CacheShapes:
    """Shapes of one sequence's arrays.

    Attributes:
        states: a recurrent layer's window and state.
        entries: of keys or values, one array or a quantised one's three: heads and width, between which the entries lie.
        head_entries: of the MTP head's. hidden: width of a state that waits for it.
    """

    states: tuple[Shape, Shape]
    entries: tuple[tuple[int, int], ...]
    head_entries: tuple[tuple[int, int], ...]
    hidden: int

    @classmethod
    def of(cls, config: ModelConfig, kv_bits: int | None) -> CacheShapes:
        """Those of a model whose keys and values are held at `kv_bits`, or as they are computed."""
        c = config
        window = (1, c.linear_conv_kernel_dim - 1, c.linear_conv_dim)
        state = (1, c.linear_num_value_heads, c.linear_value_head_dim, c.linear_key_head_dim)
        plain = ((c.num_key_value_heads, c.head_dim),)
        groups = c.head_dim // KV_GROUP
        widths = () if kv_bits is None else (c.head_dim * kv_bits // 32, groups, groups)
        quantised = tuple((c.num_key_value_heads, width) for width in widths)
        return cls((window, state), quantised or plain, plain, c.hidden_size)


def check_entries(
    name: str, parts: Sequence[mx.array], shapes: Sequence[tuple[int, int]], entries: int
) -> None:
    """Returns where keys or values `name` are of as many entries.

    Raises:
        ValueError: they are not.
    """
    check_shapes(name, parts, [(1, heads, entries, width) for heads, width in shapes])


def check_shapes(name: str, arrays: Sequence[mx.array], expected: Sequence[Shape]) -> None:
    """Returns where the arrays of `name` have these shapes.

    Raises:
        ValueError: they have not.
    """
    found = [array.shape for array in arrays]
    if found != list(expected):
        raise ValueError(f"{name} has the shapes {found} and not {list(expected)}")
