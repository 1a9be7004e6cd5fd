"""The grid of tiny random Qwen3-Next models: what each case covers, and its config in the spelling it is stored in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Config = dict[str, Any]
Spelling = Literal["2025", "transformers5"]

# The released checkpoints' config.json, in small: top-level `rope_theta`, `full_attention_interval`, no `layer_types`.
BASE: Config = {
    "architectures": ["Qwen3NextForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "decoder_sparse_step": 1,
    "eos_token_id": 2,
    "full_attention_interval": 4,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 40,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 8,
    "max_position_embeddings": 512,
    "mlp_only_layers": [],
    "model_type": "qwen3_next",
    "moe_intermediate_size": 12,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "output_router_logits": False,
    "partial_rotary_factor": 0.25,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "router_aux_loss_coef": 0.001,
    "shared_expert_intermediate_size": 12,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.57.0.dev0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 73,
}


@dataclass(frozen=True)
class Case:
    """One tiny model: `fields` replace those of BASE; `lengths` are the token sequences with golden outputs."""

    name: str
    covers: tuple[str, ...]
    lengths: tuple[int, ...]
    fields: Config = field(default_factory=dict)
    spelling: Spelling = "2025"
    mtp: bool = False
    shards: int = 1
    strong_decay: bool = False
    correlated_keys: bool = False


def _linear(key_heads: int, value_heads: int, key_dim: int, value_dim: int, kernel: int) -> Config:
    return {
        "linear_num_key_heads": key_heads,
        "linear_num_value_heads": value_heads,
        "linear_key_head_dim": key_dim,
        "linear_value_head_dim": value_dim,
        "linear_conv_kernel_dim": kernel,
    }


def _attention(heads: int, kv_heads: int, head_dim: int, rotary: float) -> Config:
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "partial_rotary_factor": rotary,
    }


def _moe(experts: int, active: int, width: int, shared: int) -> Config:
    return {
        "num_experts": experts,
        "num_experts_per_tok": active,
        "moe_intermediate_size": width,
        "shared_expert_intermediate_size": shared,
    }


def _shape(hidden: int, layers: int, interval: int, vocab: int) -> Config:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "full_attention_interval": interval,
        "vocab_size": vocab,
    }


_TINY = _shape(24, 2, 2, 67) | _attention(3, 1, 12, 0.5) | _moe(4, 2, 8, 8)

CASES = (
    Case(
        "as-released",
        ("the released model's proportions", "head ratio 2", "rotary 1/4", "mtp", "mtp in its own shard"),
        (1, 2, 7, 65),
        mtp=True,
        shards=3,
    ),
    Case(
        "head-ratio-1",
        ("head ratio 1", "Dk < Dv", "conv kernel 3", "interval 3", "one KV head", "shared expert wider"),
        (2, 65),
        _shape(24, 3, 3, 71) | _linear(3, 3, 6, 10, 3) | _attention(3, 1, 12, 0.5) | _moe(5, 2, 7, 15),
    ),
    Case(
        "head-ratio-3",
        (
            "head ratio 3",
            "Dk > Dv",
            "conv kernel 2",
            "interval 2",
            "as many KV heads as heads",
            "rotary 1",
            "every expert active",
        ),
        (1, 130),
        _shape(40, 3, 2, 64) | _linear(1, 3, 12, 5, 2) | _attention(5, 5, 6, 1.0) | _moe(3, 3, 9, 11),
        shards=2,
    ),
    Case(
        "head-ratio-4",
        ("head ratio 4", "eight layers", "one active expert", "head_dim > hidden_size / heads"),
        (7, 65),
        _shape(16, 8, 4, 97) | _linear(2, 8, 4, 4, 4) | _attention(2, 1, 20, 0.5) | _moe(4, 1, 6, 5),
    ),
    Case(
        "unnormalised-routing",
        ("norm_topk_prob false", "rms_norm_eps 1e-5", "single key head"),
        (1, 65),
        _shape(20, 4, 4, 79)
        | _linear(1, 2, 10, 6, 4)
        | _moe(9, 4, 5, 8)
        | {"norm_topk_prob": False, "rms_norm_eps": 1e-05},
    ),
    Case(
        "sparse-step-2",
        ("decoder_sparse_step 2", "dense layers", "layers not a multiple of the interval"),
        (2, 65),
        _TINY | _shape(24, 5, 2, 67) | {"decoder_sparse_step": 2, "intermediate_size": 20},
    ),
    Case(
        "mlp-only-layers",
        ("mlp_only_layers", "dense layers", "mtp", "mtp beside dense layers"),
        (7, 64),
        _TINY | _shape(24, 4, 4, 67) | {"mlp_only_layers": [1, 3], "intermediate_size": 18},
        mtp=True,
    ),
    Case(
        "tied-embeddings",
        ("tie_word_embeddings", "no lm_head tensor", "mtp", "mtp with tied embeddings"),
        (1, 65),
        _TINY | {"tie_word_embeddings": True},
        mtp=True,
    ),
    Case(
        "attention-bias",
        ("attention_bias", "mtp", "mtp with biases", "head_dim < hidden_size / heads"),
        (2, 75),
        _TINY | _attention(4, 2, 4, 0.5) | {"attention_bias": True},
        mtp=True,
        shards=2,
    ),
    Case(
        "transformers5-spelling",
        ("rope_parameters", "layer_types without full_attention_interval", "interval 3", "rotary 1/2"),
        (7, 65),
        _TINY | _shape(24, 4, 3, 69) | {"rope_theta": 5000.0},
        spelling="transformers5",
    ),
    Case(
        "irregular-layer-types",
        ("layer_types without a period", "first layer is attention", "last layer is recurrent", "rotary 1"),
        (1, 63),
        _TINY
        | _attention(3, 3, 10, 1.0)
        | {"num_hidden_layers": 4}
        | {"layer_types": ["full_attention", "full_attention", "linear_attention", "linear_attention"]},
        spelling="transformers5",
    ),
    Case(
        "yarn",
        ("rope_scaling yarn", "positions past the original context", "rotary 1"),
        (7, 130),
        _TINY
        | _attention(3, 1, 16, 1.0)
        | {"rope_theta": 500.0, "max_position_embeddings": 160}
        | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 40}},
    ),
    Case(
        "yarn-transformers5",
        (
            "yarn in rope_parameters",
            "beta_fast and beta_slow",
            "attention_factor",
            "positions past the original context",
            "mtp",
            "mtp under yarn",
        ),
        (2, 130),
        _TINY
        | _attention(2, 2, 24, 0.5)
        | {"max_position_embeddings": 160, "layer_types": ["linear_attention", "full_attention"]}
        | {
            "rope_scaling": {
                "rope_type": "yarn",
                "rope_theta": 200.0,
                "factor": 4.0,
                "beta_fast": 2.0,
                "beta_slow": 0.25,
                "attention_factor": 1.3,
                "original_max_position_embeddings": 40,
            }
        },
        spelling="transformers5",
        mtp=True,
    ),
    Case(
        "strong-decay",
        ("log decay down to -60 a token", "uneven length past two chunks"),
        (2, 131),
        _TINY | _shape(24, 3, 3, 67),
        strong_decay=True,
    ),
    Case(
        "correlated-keys",
        ("keys nearly equal", "beta near 1", "weak decay", "uneven length past two chunks"),
        (7, 131),
        _TINY | _shape(24, 2, 2, 67) | _linear(2, 4, 10, 8, 4),
        correlated_keys=True,
    ),
)
