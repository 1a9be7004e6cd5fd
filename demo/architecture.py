"""The shape of the demo model, with the field names of a Qwen3-Next config.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """Sizes of a Qwen3-Next model; the defaults are the demo model's."""

    vocab_size: int = 4096
    hidden_size: int = 256
    num_hidden_layers: int = 8
    full_attention_interval: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    partial_rotary_factor: float = 0.25
    rope_theta: float = 10000.0
    linear_num_key_heads: int = 4
    linear_num_value_heads: int = 8
    linear_key_head_dim: int = 64
    linear_value_head_dim: int = 64
    linear_conv_kernel_dim: int = 4
    num_experts: int = 32
    num_experts_per_tok: int = 4
    moe_intermediate_size: int = 64
    shared_expert_intermediate_size: int = 64
    rms_norm_eps: float = 1e-6

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Architecture:
        """Return the sizes that a config.json names."""
        return cls(**{field.name: config[field.name] for field in fields(cls)})

    def is_linear(self, layer: int) -> bool:
        """Tell whether a layer is a Gated DeltaNet layer rather than full attention."""
        return (layer + 1) % self.full_attention_interval != 0

    def config(self, end: int, padding: int) -> dict[str, Any]:
        """Return config.json in the spelling of the 2025 Qwen3-Next releases.

        Like theirs, it has no field for the MTP head: loaders find it by its tensors.
        """
        fixed = {
            "architectures": ["Qwen3NextForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": padding,
            "decoder_sparse_step": 1,
            "eos_token_id": end,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "intermediate_size": 512,
            "max_position_embeddings": 4096,
            "mlp_only_layers": [],
            "model_type": "qwen3_next",
            "norm_topk_prob": True,
            "output_router_logits": False,
            "pad_token_id": padding,
            "rope_scaling": None,
            "router_aux_loss_coef": 0.001,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.57.0.dev0",
            "use_cache": True,
            "use_sliding_window": False,
        }
        return dict(sorted((asdict(self) | fixed).items()))


MICRO = Architecture(
    hidden_size=64, num_hidden_layers=4, head_dim=32, linear_num_key_heads=2, linear_num_value_heads=4,
    linear_key_head_dim=32, linear_value_head_dim=32, num_experts=8, moe_intermediate_size=32,
    shared_expert_intermediate_size=32,
)  # fmt: skip
"""A model of seconds, to try the whole recipe without a GPU."""
