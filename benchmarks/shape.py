"""What a checkpoint of any shape consists of, in MLX layout: 4 bits in groups of 64, gates at 8, as mlx-lm converts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

from mlx_qnext.checkpoint import TensorInfo
from mlx_qnext.safetensors_header import DTYPE_BITS

Shape = tuple[int, ...]
Config = dict[str, Any]

# Qwen3-Next-80B-A3B as published, but for the eos ids.
FULL_SHAPE: Config = {
    "model_type": "qwen3_next",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "intermediate_size": 5120,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "full_attention_interval": 4,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 262144,
    "rope_theta": 1e7,
    "partial_rotary_factor": 0.25,
    "tie_word_embeddings": False,
}
GROUP = 64
ROUTER = ".mlp.gate"
_GATES = (ROUTER, ".mlp.shared_expert_gate")


def quantised(config: Config, paths: Iterable[str]) -> Config:
    """The configuration with what it says of these modules' precision."""
    overrides = {path: {"bits": 8, "group_size": GROUP} for path in paths if path.endswith(_GATES)}
    return config | {"quantization": {"bits": 4, "group_size": GROUP, **overrides}}


def bits_of(path: str) -> int:
    """Of a packed module's weights."""
    return 8 if path.endswith(_GATES) else 4


def step_of(path: str, columns: int) -> float:
    """What one step of a packed module's integers is worth, so that uniform ones spread as a trained matrix of this width."""
    return 1.7 * columns**-0.5 / (1 << (bits_of(path) - 1))


def centre_of(path: str) -> float:
    """The mean of a packed module's integers.

    It has to be subtracted to the half: rows that share a mean amplify one direction until all tokens are alike.
    """
    return ((1 << bits_of(path)) - 1) / 2


def is_packed(path: str, shape: Shape) -> bool:
    """Whether this is a module of packed weights, and not a tensor that stays in bf16."""
    return len(shape) > 1 and "conv1d" not in path


def plain_mean(path: str) -> float:
    """Around what a tensor in bf16 lies."""
    return 0.0 if path.endswith(("A_log", "dt_bias", "conv1d.weight")) else 1.0


def tensors(path: str, shape: Shape) -> list[TensorInfo]:
    """What is stored of a module, each at the beginning of no file yet."""
    if not is_packed(path, shape):
        return [_info(path, "BF16", shape)]
    *rows, columns = shape
    groups = (*rows, columns // GROUP)
    return [
        _info(f"{path}.weight", "U32", (*rows, columns * bits_of(path) // 32)),
        _info(f"{path}.scales", "BF16", groups),
        _info(f"{path}.biases", "BF16", groups),
    ]


def _info(name: str, dtype: str, shape: Shape) -> TensorInfo:
    return TensorInfo(name, Path("synthetic"), dtype, shape, 0, prod(shape) * DTYPE_BITS[dtype] // 8)


def modules(c: Config, *, mtp: bool = False) -> dict[str, Shape]:
    """Module or tensor path → shape before quantisation, of everything in a checkpoint, with or without an MTP head."""
    return dict(_trunk(c)) | (dict(_mtp(c)) if mtp else {})


def _trunk(c: Config) -> Iterator[tuple[str, Shape]]:
    width, vocabulary = c["hidden_size"], c["vocab_size"]
    yield "model.embed_tokens", (vocabulary, width)
    for n in range(c["num_hidden_layers"]):
        yield from _layer(c, f"model.layers.{n}", attention=(n + 1) % c["full_attention_interval"] == 0)
    yield "model.norm.weight", (width,)
    yield "lm_head", (vocabulary, width)


def _mtp(c: Config) -> Iterator[tuple[str, Shape]]:
    width = c["hidden_size"]
    yield "mtp.fc", (width, 2 * width)
    for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
        yield f"mtp.{name}.weight", (width,)
    yield from _layer(c, "mtp.layers.0", attention=True)


def _layer(c: Config, path: str, *, attention: bool) -> Iterator[tuple[str, Shape]]:
    yield f"{path}.input_layernorm.weight", (c["hidden_size"],)
    yield f"{path}.post_attention_layernorm.weight", (c["hidden_size"],)
    yield from (_attention(c, f"{path}.self_attn") if attention else _recurrent(c, f"{path}.linear_attn"))
    yield from _experts(c, f"{path}.mlp")


def _attention(c: Config, path: str) -> Iterator[tuple[str, Shape]]:
    width, head = c["hidden_size"], c["head_dim"]
    queries, keys = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    yield f"{path}.q_proj", (2 * queries, width)
    yield f"{path}.k_proj", (keys, width)
    yield f"{path}.v_proj", (keys, width)
    yield f"{path}.o_proj", (width, queries)
    yield f"{path}.q_norm.weight", (head,)
    yield f"{path}.k_norm.weight", (head,)


def _recurrent(c: Config, path: str) -> Iterator[tuple[str, Shape]]:
    width, heads = c["hidden_size"], c["linear_num_value_heads"]
    keys = c["linear_num_key_heads"] * c["linear_key_head_dim"]
    values = heads * c["linear_value_head_dim"]
    yield f"{path}.in_proj_qkvz", (2 * keys + 2 * values, width)
    yield f"{path}.in_proj_ba", (2 * heads, width)
    yield f"{path}.conv1d.weight", (2 * keys + values, c["linear_conv_kernel_dim"], 1)
    yield f"{path}.A_log", (heads,)
    yield f"{path}.dt_bias", (heads,)
    yield f"{path}.norm.weight", (c["linear_value_head_dim"],)
    yield f"{path}.out_proj", (width, values)


def _experts(c: Config, path: str) -> Iterator[tuple[str, Shape]]:
    width, count = c["hidden_size"], c["num_experts"]
    inner, shared = c["moe_intermediate_size"], c["shared_expert_intermediate_size"]
    yield f"{path}.gate", (count, width)
    yield f"{path}.shared_expert_gate", (1, width)
    for name in ("gate_proj", "up_proj"):
        yield f"{path}.switch_mlp.{name}", (count, inner, width)
        yield f"{path}.shared_expert.{name}", (shared, width)
    yield f"{path}.switch_mlp.down_proj", (count, width, inner)
    yield f"{path}.shared_expert.down_proj", (width, shared)
