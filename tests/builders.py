"""Tiny random checkpoints in both layouts, written as Qwen and mlx-lm write theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import mlx.core as mx

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.config import ModelConfig

TINY = {
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "full_attention_interval": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.25,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "eos_token_id": 1,
}
"""A config.json that is complete and valid."""


def tensor_shapes(config: ModelConfig, *, mtp: bool = True) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor in the HF layout."""
    hidden, vocab = config.hidden_size, config.vocab_size
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (vocab, hidden)
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        mixer = _recurrent if config.is_recurrent(layer) else _attention
        mlp = _sparse_mlp if config.is_sparse(layer) else _dense_mlp
        shapes |= {
            prefix + name: shape for name, shape in _layer(config, mixer(config) | mlp(config)).items()
        }
    if mtp:
        shapes |= {"mtp.fc.weight": (hidden, 2 * hidden), "mtp.norm.weight": (hidden,)}
        shapes |= {f"mtp.pre_fc_norm_{source}.weight": (hidden,) for source in ("embedding", "hidden")}
        layer = _layer(
            config, _attention(config) | (_sparse_mlp if config.num_experts else _dense_mlp)(config)
        )
        shapes |= {f"mtp.layers.0.{name}": shape for name, shape in layer.items()}
    return shapes


def write_hf_checkpoint(
    folder: Path,
    config_overrides: dict | None = None,
    seed: int = 0,
    *,
    shards: int = 1,
    mtp: bool = True,
    dtype: mx.Dtype = mx.bfloat16,
) -> Path:
    """A folder as Qwen publishes it; more than one shard come with an index."""
    values = TINY | (config_overrides or {})
    tensors = _random_tensors(ModelConfig.from_dict(values), seed, mtp=mtp, dtype=dtype)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values, indent=2))
    if shards == 1:
        mx.save_safetensors(str(folder / "model.safetensors"), tensors, {"format": "pt"})
        return folder
    placed = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[shard::shards]}
        mx.save_safetensors(str(folder / file), part, {"format": "pt"})
        placed |= dict.fromkeys(part, file)
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": placed,
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_mlx_checkpoint(
    folder: Path,
    config_overrides: dict | None = None,
    seed: int = 0,
    *,
    bits: int = 4,
    group_size: int = 32,
    mtp: Literal["none", "inside", "beside"] = "none",
) -> Path:
    """A folder as mlx-lm converts it: experts stacked, norms shifted, affine quantisation, 8 bits for the gates."""
    values = TINY | (config_overrides or {})
    config = ModelConfig.from_dict(values)
    tensors = _mlx_layout(_random_tensors(config, seed, mtp=mtp != "none", dtype=mx.bfloat16), config)
    settings: dict = {"group_size": group_size, "bits": bits, "mode": "affine"}
    packed = {}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        if kind != "weight" or tensor.ndim < 2 or module.endswith("conv1d"):
            packed[name] = tensor
            continue
        width = 8 if module.endswith(("mlp.gate", "shared_expert_gate")) else bits
        if width != bits:
            settings[module] = {"group_size": group_size, "bits": width}
        parts = mx.quantize(tensor, group_size=group_size, bits=width)
        packed |= dict(zip((name, f"{module}.scales", f"{module}.biases"), parts))
    folder.mkdir(parents=True, exist_ok=True)
    values |= {"quantization": settings, "quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(values, indent=2))
    files = {"model.safetensors": packed}
    if mtp == "beside":
        files["mtp.safetensors"] = {
            name: packed.pop(name) for name in sorted(packed) if name.startswith("mtp.")
        }
    for file, part in files.items():
        mx.save_safetensors(str(folder / file), part, {"format": "mlx"})
    return folder


def _random_tensors(config: ModelConfig, seed: int, *, mtp: bool, dtype: mx.Dtype) -> dict[str, mx.array]:
    shapes = tensor_shapes(config, mtp=mtp)
    keys = mx.random.split(mx.random.key(seed), len(shapes))
    return {
        name: (mx.random.normal(shape, key=key) * shape[-1] ** -0.5).astype(dtype)
        for (name, shape), key in zip(shapes.items(), keys)
    }


def mlx_tensors(folder: Path) -> dict[str, mx.array]:
    """The tensors of an HF folder in MLX layout, unquantised; norms in fp32, where 1 + weight loses nothing."""
    checkpoint = Checkpoint.open(folder)
    return _mlx_layout(
        checkpoint.arrays(checkpoint.tensors), ModelConfig.from_dict(checkpoint.config), norms=mx.float32
    )


def _mlx_layout(
    tensors: dict[str, mx.array], config: ModelConfig, norms: mx.Dtype = mx.bfloat16
) -> dict[str, mx.array]:
    converted = {}
    for name, tensor in tensors.items():
        if ".mlp.experts." in name:
            prefix, _, rest = name.partition(".experts.")
            expert, _, projection = rest.partition(".")
            if expert == "0":
                stack = [
                    tensors[f"{prefix}.experts.{index}.{projection}"] for index in range(config.num_experts)
                ]
                converted[f"{prefix}.switch_mlp.{projection}"] = mx.stack(stack)
        elif name.endswith("conv1d.weight"):
            converted[name] = tensor.moveaxis(2, 1)
        elif tensor.ndim == 1 and "norm" in name and not name.endswith("linear_attn.norm.weight"):
            converted[name] = tensor.astype(norms) + 1
        else:
            converted[name] = tensor
    return converted


def _layer(config: ModelConfig, parts: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    norms = ("input_layernorm", "post_attention_layernorm")
    return {f"{norm}.weight": (config.hidden_size,) for norm in norms} | parts


def _attention(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, dim = config.hidden_size, config.head_dim
    queries, keys = config.num_attention_heads * dim, config.num_key_value_heads * dim
    outputs = {"q_proj": 2 * queries, "k_proj": keys, "v_proj": keys}
    shapes = {f"self_attn.{name}.weight": (out, hidden) for name, out in outputs.items()}
    shapes |= {"self_attn.o_proj.weight": (hidden, queries)}
    if config.attention_bias:
        shapes |= {f"self_attn.{name}.bias": (out,) for name, out in (outputs | {"o_proj": hidden}).items()}
    return shapes | {f"self_attn.{name}_norm.weight": (dim,) for name in "qk"}


def _recurrent(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, heads = config.hidden_size, config.linear_num_value_heads
    return {
        "linear_attn.A_log": (heads,),
        "linear_attn.dt_bias": (heads,),
        "linear_attn.conv1d.weight": (config.linear_conv_dim, 1, config.linear_conv_kernel_dim),
        "linear_attn.in_proj_ba.weight": (2 * heads, hidden),
        "linear_attn.in_proj_qkvz.weight": (config.linear_conv_dim + config.linear_value_dim, hidden),
        "linear_attn.norm.weight": (config.linear_value_head_dim,),
        "linear_attn.out_proj.weight": (hidden, config.linear_value_dim),
    }


def _dense_mlp(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return _gated("mlp", config.hidden_size, config.intermediate_size)


def _sparse_mlp(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden = config.hidden_size
    shapes = {"mlp.gate.weight": (config.num_experts, hidden), "mlp.shared_expert_gate.weight": (1, hidden)}
    shapes |= _gated("mlp.shared_expert", hidden, config.shared_expert_intermediate_size)
    for expert in range(config.num_experts):
        shapes |= _gated(f"mlp.experts.{expert}", hidden, config.moe_intermediate_size)
    return shapes


def _gated(prefix: str, hidden: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}.gate_proj.weight": (inner, hidden),
        f"{prefix}.up_proj.weight": (inner, hidden),
        f"{prefix}.down_proj.weight": (hidden, inner),
    }
