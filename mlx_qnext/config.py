"""What `config.json` says of the architecture: every field in the checkpoint's own spelling, checked once.

Both spellings are read: the flat one that Qwen published (`rope_theta`, `full_attention_interval`) and the
one that transformers 5 writes (`rope_parameters`, `layer_types`). Where they disagree, the precedence is that
of transformers.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from typing import Literal

from mlx_qnext.errors import CheckpointError, UnsupportedModelError
from mlx_qnext.generation_defaults import GenerationDefaults
from mlx_qnext.json_fields import REMEDY, Fields, shown
from mlx_qnext.quantization import Precision, Quantization

__all__ = ["GenerationDefaults", "ModelConfig", "Precision", "Quantization", "RopeScaling"]

MODEL_TYPE = "qwen3_next"
LAYER_TYPES = ("linear_attention", "full_attention")

# Far above every published model, and low enough that nothing sized by one field can exhaust memory.
MAX_LAYERS = 1024
MAX_WIDTH = 1 << 18
MAX_HEADS = 4096
MAX_EXPERTS = 65_536
MAX_VOCABULARY = 1 << 24
MAX_POSITIONS = 1 << 30

# These may differ between a checkpoint and what was made of it: they change no weight's meaning.
NOT_ARCHITECTURE = frozenset({"eos_token_ids", "max_position_embeddings", "rope_scaling"})


@dataclass(frozen=True)
class RopeScaling:
    """How rotary positions are stretched; `factor` is stretched length over trained length.

    Attributes:
        attention_factor: what cos and sin are multiplied by; `None` derives it from `factor`, `mscale` and
            `mscale_all_dim` (YaRN, Peng et al. 2023, as transformers computes it).
        truncate: whether YaRN's correction range is rounded to whole dimensions.
    """

    rope_type: Literal["linear", "yarn"]
    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    @classmethod
    def from_fields(cls, fields: Fields, max_position_embeddings: int) -> RopeScaling | None:
        """The scaling that RoPE's fields describe; `None` for plain RoPE.

        Raises:
            UnsupportedModelError: another kind of scaling. CheckpointError: an absurd value.
        """
        kind = fields.text("rope_type", default="default")
        if kind == "default":
            return None
        if kind not in ("linear", "yarn"):
            raise UnsupportedModelError(
                f"{fields.source} asks for RoPE scaling {shown(kind)}, and only yarn and linear are computed "
                "here: choose another model."
            )
        scaling = cls(
            rope_type="yarn" if kind == "yarn" else "linear",
            factor=fields.number("factor", low=1, high=1e6),
            original_max_position_embeddings=fields.integer(
                "original_max_position_embeddings", low=1, high=MAX_POSITIONS, default=max_position_embeddings
            ),
            beta_fast=fields.number("beta_fast", low=1e-6, high=1e6, default=32.0),
            beta_slow=fields.number("beta_slow", low=1e-6, high=1e6, default=1.0),
            attention_factor=fields.optional_number("attention_factor", low=0, high=1e6),
            mscale=fields.optional_number("mscale", low=0, high=1e6),
            mscale_all_dim=fields.optional_number("mscale_all_dim", low=0, high=1e6),
            truncate=fields.flag("truncate", default=True),
        )
        if scaling.beta_fast < scaling.beta_slow:
            raise fields.error("beta_fast", scaling.beta_fast, f"at least beta_slow = {scaling.beta_slow:g}")
        return scaling


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of one Qwen3-Next model; head counts divide, and every size is positive and bounded.

    `num_experts` may be 0 (all layers dense). `full_attention_interval` is what `layer_types` is made from
    where the file lists none; the list rules. `eos_token_ids` is empty where the file names none.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    attention_bias: bool
    full_attention_interval: int
    layer_types: tuple[str, ...]
    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int
    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    shared_expert_intermediate_size: int
    decoder_sparse_step: int
    mlp_only_layers: tuple[int, ...]
    norm_topk_prob: bool
    rms_norm_eps: float
    max_position_embeddings: int
    rope_theta: float
    partial_rotary_factor: float
    rope_scaling: RopeScaling | None
    tie_word_embeddings: bool
    eos_token_ids: tuple[int, ...]
    hidden_act: Literal["silu"] = "silu"

    @classmethod
    def from_dict(cls, config: dict[str, object], source: str = "config.json") -> ModelConfig:
        """The checked form of a parsed `config.json`.

        Sizes have no default here, although transformers has one for each: a file that lacks them is damaged.
        Switches do, and they are those of transformers' `Qwen3NextConfig`.

        Raises:
            UnsupportedModelError: another `model_type`, activation or RoPE scaling.
            CheckpointError: a field is missing, absurd, or contradicts another.
        """
        fields = Fields(config, source)
        _refuse_other_architectures(fields)
        layers = fields.integer("num_hidden_layers", low=1, high=MAX_LAYERS)
        interval = fields.integer("full_attention_interval", low=1, high=MAX_LAYERS, default=4)
        positions = fields.integer("max_position_embeddings", low=1, high=MAX_POSITIONS)
        rope = _rope_fields(fields)
        model = cls(
            model_type=MODEL_TYPE,
            vocab_size=fields.integer("vocab_size", low=1, high=MAX_VOCABULARY),
            hidden_size=_width(fields, "hidden_size"),
            num_hidden_layers=layers,
            intermediate_size=_width(fields, "intermediate_size"),
            num_attention_heads=_heads(fields, "num_attention_heads"),
            num_key_value_heads=_heads(fields, "num_key_value_heads"),
            head_dim=_width(fields, "head_dim"),
            attention_bias=fields.flag("attention_bias", default=False),
            full_attention_interval=interval,
            layer_types=_layer_types(fields, layers, interval),
            linear_num_key_heads=_heads(fields, "linear_num_key_heads"),
            linear_num_value_heads=_heads(fields, "linear_num_value_heads"),
            linear_key_head_dim=_width(fields, "linear_key_head_dim"),
            linear_value_head_dim=_width(fields, "linear_value_head_dim"),
            linear_conv_kernel_dim=fields.integer("linear_conv_kernel_dim", low=1, high=1024),
            num_experts=fields.integer("num_experts", low=0, high=MAX_EXPERTS),
            num_experts_per_tok=fields.integer("num_experts_per_tok", low=0, high=MAX_EXPERTS),
            moe_intermediate_size=_width(fields, "moe_intermediate_size"),
            shared_expert_intermediate_size=_width(fields, "shared_expert_intermediate_size"),
            decoder_sparse_step=fields.integer("decoder_sparse_step", low=1, high=MAX_LAYERS, default=1),
            mlp_only_layers=fields.integers("mlp_only_layers", low=0, high=layers - 1),
            norm_topk_prob=fields.flag("norm_topk_prob", default=True),
            rms_norm_eps=fields.number("rms_norm_eps", low=sys.float_info.min, high=1.0),
            max_position_embeddings=positions,
            rope_theta=rope.number("rope_theta", low=1.0, high=1e15),
            partial_rotary_factor=rope.number("partial_rotary_factor", low=0.0, high=1.0, default=0.25),
            rope_scaling=RopeScaling.from_fields(rope, positions),
            tie_word_embeddings=fields.flag("tie_word_embeddings", default=False),
            eos_token_ids=fields.integers("eos_token_id", low=0, high=MAX_VOCABULARY),
        )
        _check_ratios(model, source)
        return model

    def is_recurrent(self, layer: int) -> bool:
        """Whether the layer is a Gated DeltaNet; otherwise it is full attention."""
        return self.layer_types[layer] == "linear_attention"

    def is_sparse(self, layer: int) -> bool:
        """Whether the layer's MLP is a mixture of experts; otherwise it is dense."""
        if layer in self.mlp_only_layers or self.num_experts == 0:
            return False
        return (layer + 1) % self.decoder_sparse_step == 0

    def first_difference(self, other: ModelConfig) -> str | None:
        """The first field whose difference makes the two have different weights, or read them differently."""
        names = (field.name for field in fields(self) if field.name not in NOT_ARCHITECTURE)
        return next((name for name in names if getattr(self, name) != getattr(other, name)), None)

    @property
    def context_limit(self) -> int:
        """The most tokens of a context: as many as the model was made for, or as RoPE scaling stretches them to."""
        if self.rope_scaling is None:
            return self.max_position_embeddings
        stretched = int(self.rope_scaling.factor * self.rope_scaling.original_max_position_embeddings)
        return min(max(self.max_position_embeddings, stretched), MAX_POSITIONS)

    @property
    def linear_key_dim(self) -> int:
        """Width of all recurrent keys: Hk · Dk."""
        return self.linear_num_key_heads * self.linear_key_head_dim

    @property
    def linear_value_dim(self) -> int:
        """Width of all recurrent values: Hv · Dv."""
        return self.linear_num_value_heads * self.linear_value_head_dim

    @property
    def linear_conv_dim(self) -> int:
        """Channels of the causal convolution, which runs over q, k and v."""
        return 2 * self.linear_key_dim + self.linear_value_dim

    @property
    def rotary_dim(self) -> int:
        """How many of `head_dim` are rotated; even."""
        return int(self.head_dim * self.partial_rotary_factor)


def _refuse_other_architectures(fields: Fields) -> None:
    kind = fields.text("model_type")
    if kind != MODEL_TYPE:
        raise UnsupportedModelError(
            f"{fields.source} is of model_type {shown(kind)}, and only {MODEL_TYPE} runs here: "
            "choose a Qwen3-Next model."
        )
    activation = fields.text("hidden_act", default="silu")
    if activation != "silu":
        raise UnsupportedModelError(
            f"{fields.source} asks for the activation {shown(activation)}, and only silu is computed here: "
            "choose another model."
        )


def _width(fields: Fields, name: str) -> int:
    return fields.integer(name, low=1, high=MAX_WIDTH)


def _heads(fields: Fields, name: str) -> int:
    return fields.integer(name, low=1, high=MAX_HEADS)


def _layer_types(fields: Fields, layers: int, interval: int) -> tuple[str, ...]:
    if fields.has("layer_types"):
        return fields.texts("layer_types", allowed=LAYER_TYPES, count=layers)
    return tuple(LAYER_TYPES[(layer + 1) % interval == 0] for layer in range(layers))


def _rope_fields(fields: Fields) -> Fields:
    """RoPE's fields in one spelling; `rope_scaling` rules over `rope_parameters`, that over the top."""
    merged = {name: fields.values.get(name) for name in ("rope_theta", "partial_rotary_factor")}
    for name in ("rope_parameters", "rope_scaling"):
        given = {key: value for key, value in fields.object(name).values.items() if value is not None}
        if "type" in given:
            given.setdefault("rope_type", given.pop("type"))
        merged.update(given)
    return Fields(merged, fields.source)


def _check_ratios(model: ModelConfig, source: str) -> None:
    _check_divides(model, source, "num_attention_heads", "num_key_value_heads")
    _check_divides(model, source, "linear_num_value_heads", "linear_num_key_heads")
    if model.num_experts and not 1 <= model.num_experts_per_tok <= model.num_experts:
        raise CheckpointError(
            f"{source} has num_experts_per_tok = {model.num_experts_per_tok}, expected 1 to num_experts = "
            f"{model.num_experts}: {REMEDY}."
        )
    if model.rotary_dim < 2 or model.rotary_dim % 2:
        raise CheckpointError(
            f"{source} rotates {model.rotary_dim} of {model.head_dim} head dimensions (partial_rotary_factor "
            f"{model.partial_rotary_factor:g}), expected an even number: choose another model."
        )


def _check_divides(model: ModelConfig, source: str, whole: str, part: str) -> None:
    if getattr(model, whole) % getattr(model, part):
        raise CheckpointError(
            f"{source} has {whole} = {getattr(model, whole)}, expected a multiple of {part} = "
            f"{getattr(model, part)}: {REMEDY}."
        )
