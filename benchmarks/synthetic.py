"""Checkpoints of any shape in random 4-bit weights, made on the device: shapes too large to ship cost nothing to store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_qnext.checkpoint import Checkpoint, TensorInfo

# Qwen3-Next-80B-A3B as published, but for the eos ids.
FULL_SHAPE: dict[str, Any] = {
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
_GATES = ("mlp.gate", "mlp.shared_expert_gate")
_GROUP = 64
_DTYPE = mx.bfloat16


class SyntheticCheckpoint(Checkpoint):
    """A `Checkpoint` in MLX layout that makes its tensors: 4 bits in groups of 64, gates at 8, as mlx-lm converts.

    Args:
        config: a `config.json` without its quantisation.
        dtype: of everything that is not packed.
    """

    _shapes: dict[str, tuple[int, ...]]

    @classmethod
    def make(cls, config: dict[str, Any], *, mtp: bool = False) -> SyntheticCheckpoint:
        """The checkpoint of this configuration, with or without an MTP head; nothing is made until `arrays` are evaluated."""
        made_of = dict(shapes(config)) | (dict(_mtp(config)) if mtp else {})
        overrides = {path: {"bits": 8, "group_size": _GROUP} for path in made_of if path.endswith(_GATES)}
        quantised = config | {"quantization": {"bits": 4, "group_size": _GROUP, **overrides}}
        tensors = {info.name: info for path, shape in made_of.items() for info in _tensors(path, shape)}
        made = cls(Path("synthetic"), quantised, tensors, {}, "mlx", "mlx" if mtp else None)
        object.__setattr__(made, "_shapes", made_of)
        return made

    def arrays(self, names: Iterable[str]) -> dict[str, mx.array]:
        """Unevaluated random arrays, the same in every call."""
        mx.random.seed(0)
        made = {name: array for path in self._shapes for name, array in self._make(path).items()}
        return {name: made[name] for name in names}

    def _make(self, path: str) -> dict[str, mx.array]:
        shape = self._shapes[path]
        if not _quantised(path, shape):
            around = 0.0 if path.endswith(("A_log", "dt_bias", "conv1d.weight")) else 1.0
            return {path: (around + 0.1 * mx.random.normal(shape)).astype(_DTYPE)}
        bits = 8 if path.endswith(_GATES) else 4
        *rows, columns = shape
        packed = mx.random.randint(0, 1 << 32, (*rows, columns * bits // 32), dtype=mx.uint32)
        # Uniform integers around 0 with the spread of a trained matrix of this width.
        scale = 1.7 * columns**-0.5 / (1 << (bits - 1))
        scales = mx.full((*rows, columns // _GROUP), scale, dtype=_DTYPE)
        return {
            f"{path}.weight": packed,
            f"{path}.scales": scales,
            f"{path}.biases": scales * -(1 << (bits - 1)),
        }


def _quantised(path: str, shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and "conv1d" not in path


def _tensors(path: str, shape: tuple[int, ...]) -> list[TensorInfo]:
    """Names and shapes as a file's header would list them."""

    def info(name: str, dtype: str, shape: tuple[int, ...]) -> TensorInfo:
        return TensorInfo(name, Path("synthetic"), dtype, shape, 0, 0)

    if not _quantised(path, shape):
        return [info(path, "BF16", shape)]
    *rows, columns = shape
    bits = 8 if path.endswith(_GATES) else 4
    groups = (*rows, columns // _GROUP)
    return [
        info(f"{path}.weight", "U32", (*rows, columns * bits // 32)),
        info(f"{path}.scales", "BF16", groups),
        info(f"{path}.biases", "BF16", groups),
    ]


def shapes(c: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Module or tensor path → shape before quantisation, of everything in a checkpoint in MLX layout."""
    width, vocabulary = c["hidden_size"], c["vocab_size"]
    yield "model.embed_tokens", (vocabulary, width)
    for n in range(c["num_hidden_layers"]):
        yield from _layer(c, f"model.layers.{n}", attention=(n + 1) % c["full_attention_interval"] == 0)
    yield "model.norm.weight", (width,)
    yield "lm_head", (vocabulary, width)


def _mtp(c: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = c["hidden_size"]
    yield "mtp.fc", (width, 2 * width)
    for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
        yield f"mtp.{name}.weight", (width,)
    yield from _layer(c, "mtp.layers.0", attention=True)


def _layer(c: dict[str, Any], path: str, *, attention: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{path}.input_layernorm.weight", (c["hidden_size"],)
    yield f"{path}.post_attention_layernorm.weight", (c["hidden_size"],)
    yield from (_attention(c, f"{path}.self_attn") if attention else _recurrent(c, f"{path}.linear_attn"))
    yield from _experts(c, f"{path}.mlp")


def _attention(c: dict[str, Any], path: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, head = c["hidden_size"], c["head_dim"]
    queries, keys = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    yield f"{path}.q_proj", (2 * queries, width)
    yield f"{path}.k_proj", (keys, width)
    yield f"{path}.v_proj", (keys, width)
    yield f"{path}.o_proj", (width, queries)
    yield f"{path}.q_norm.weight", (head,)
    yield f"{path}.k_norm.weight", (head,)


def _recurrent(c: dict[str, Any], path: str) -> Iterator[tuple[str, tuple[int, ...]]]:
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


def _experts(c: dict[str, Any], path: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, count = c["hidden_size"], c["num_experts"]
    inner, shared = c["moe_intermediate_size"], c["shared_expert_intermediate_size"]
    yield f"{path}.gate", (count, width)
    yield f"{path}.shared_expert_gate", (1, width)
    for name in ("gate_proj", "up_proj"):
        yield f"{path}.switch_mlp.{name}", (count, inner, width)
        yield f"{path}.shared_expert.{name}", (shared, width)
    yield f"{path}.switch_mlp.down_proj", (count, width, inner)
    yield f"{path}.shared_expert.down_proj", (width, shared)
