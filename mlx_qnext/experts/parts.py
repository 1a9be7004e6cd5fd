"""Bytes of a model's parts in memory, from headers and configuration alone.

All sizes are those on the back end that computes: on the CPU what is stored in half precision is widened to fp32,
and only packed integers stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod

import mlx.core as mx

from mlx_qnext.checkpoint import PACKED_DTYPE, Checkpoint, TensorInfo
from mlx_qnext.config import ModelConfig
from mlx_qnext.ops.device import compute_dtype

# Keys and values grow by this many tokens at a time.
CACHE_STEP = 256
# Channels of a quantised key or value that share a scale and a bias.
KV_GROUP = 64

_ROUTED = re.compile(r"(.+\.mlp)\.(?:switch_mlp|experts)\.")
_DTYPES = {"F32": mx.float32, "F16": mx.float16}


def activation_dtype(checkpoint: Checkpoint) -> mx.Dtype:
    """The dtype that is computed in: that of the embeddings' plain part, where the back end does not choose."""
    tensors = checkpoint.tensors
    embeddings = tensors.get("model.embed_tokens.scales") or tensors.get("model.embed_tokens.weight")
    return compute_dtype(_DTYPES.get(embeddings.dtype if embeddings else "BF16", mx.bfloat16))


def weight_bytes(
    tensors: Iterable[TensorInfo], itemsize: int, num_experts: int
) -> tuple[int, dict[str, int]]:
    """Of the trunk, and of one expert of each layer that has experts, by the path of its feed-forward."""
    trunk, layers = 0, dict[str, int]()
    for tensor in tensors:
        size = prod(tensor.shape) * (4 if tensor.dtype == PACKED_DTYPE else itemsize)
        routed = _ROUTED.match(tensor.name) if num_experts else None
        if routed is None:
            trunk += size
        else:
            layers[routed[1]] = layers.get(routed[1], 0) + size
    return trunk, {path: size // num_experts for path, size in layers.items()}


def cache_bytes(config: ModelConfig, tokens: int, itemsize: int, kv_bits: int | None, *, head: bool) -> int:
    """Of the keys and values of `tokens`: the trunk's in `kv_bits`, the MTP head's, if there is one, as they are computed."""
    plain = config.head_dim * itemsize
    kept = (
        plain
        if kv_bits is None
        else config.head_dim * kv_bits // 8 + 2 * (config.head_dim // KV_GROUP) * itemsize
    )
    a_head = config.layer_types.count("full_attention") * kept + head * plain
    return 2 * config.num_key_value_heads * a_head * -(-tokens // CACHE_STEP) * CACHE_STEP


def state_bytes(config: ModelConfig, itemsize: int) -> int:
    """Of all recurrent layers at one position: the convolution's window, and the state in fp32."""
    window = (config.linear_conv_kernel_dim - 1) * config.linear_conv_dim * itemsize
    state = config.linear_value_dim * config.linear_key_head_dim * 4
    return config.layer_types.count("linear_attention") * (window + state)
