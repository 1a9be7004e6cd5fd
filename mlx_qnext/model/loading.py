"""From a checkpoint folder to a model: which tensor becomes which part.

The whole model is put together and checked before any weight is read. Then its matrices are read and fused one at a time, so
that the peak above the model's own size stays below one layer's weights, or two where every expert is a tensor of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from mlx_qnext.checkpoint import Checkpoint
from mlx_qnext.config import ModelConfig
from mlx_qnext.errors import CheckpointError
from mlx_qnext.experts.layout import StoredExperts
from mlx_qnext.experts.store import ExpertStore
from mlx_qnext.json_fields import shown
from mlx_qnext.model.attention import Attention
from mlx_qnext.model.gated_delta_net import GatedDeltaNet
from mlx_qnext.model.layers import AttentionLayer, FeedForward, RecurrentLayer
from mlx_qnext.model.linear import Embedding, Linear
from mlx_qnext.model.moe import Experts, Mlp, SparseMoe, stackable, stacked
from mlx_qnext.model.mtp import MtpHead
from mlx_qnext.model.norm import RmsNorm
from mlx_qnext.model.pooled_experts import PooledExperts
from mlx_qnext.model.qwen3_next import Model
from mlx_qnext.model.trunk import Trunk
from mlx_qnext.model.weights import Weights
from mlx_qnext.ops.matrix import Matrix

LayerProgress = Callable[[int, int], None]
M = TypeVar("M", bound=nn.Module)


def load_model(folder: Path | str, on_layer: LayerProgress | None = None) -> tuple[Model, ModelConfig]:
    """The model in `folder`, its weights in memory, and its configuration; no tokenizer is needed.

    `on_layer(done, total)` is called as layers arrive.

    Raises:
        CheckpointError: files missing, damaged or contradicting each other.
        UnsupportedModelError: another kind of model.
    """
    return build_model(Checkpoint.open(Path(folder)), on_layer)


def build_model(
    checkpoint: Checkpoint, on_layer: LayerProgress | None = None, store: ExpertStore | None = None
) -> tuple[Model, ModelConfig]:
    """As `load_model`, for a checkpoint that is open; with a `store`, experts are left to it and read when they are visited."""
    parts = assemble(checkpoint, store)
    for done, layer in enumerate(parts.layers, 1):
        read(layer)
        if on_layer is not None:
            on_layer(done, len(parts.layers))
    if store is not None:
        store.pin()
    trunk = Trunk(parts.embed_tokens, parts.layers, parts.norm)
    return read(Model(parts.config, trunk, parts.lm_head, parts.mtp)), parts.config


def check_complete(checkpoint: Checkpoint) -> None:
    """Return where the checkpoint holds exactly the tensors that its configuration calls for; nothing is read.

    Raises:
        CheckpointError, UnsupportedModelError: as `load_model`.
    """
    assemble(checkpoint)


@dataclass(frozen=True)
class Parts:
    """What a model consists of, put together and checked, and none of it in memory before it is `read`.

    Nothing else refers to a layer: whoever takes one out of the list and drops it again never holds two.

    Attributes:
        lm_head: `None` where the embeddings give the logits. mtp: `None` where the checkpoint has no MTP head.
    """

    config: ModelConfig
    embed_tokens: Embedding
    layers: list[AttentionLayer | RecurrentLayer]
    norm: RmsNorm
    lm_head: Linear | None
    mtp: MtpHead | None


def assemble(checkpoint: Checkpoint, store: ExpertStore | None = None) -> Parts:
    """The model's parts, which account for every tensor of the checkpoint; experts are resident, or in the `store`.

    Raises:
        CheckpointError, UnsupportedModelError: as `load_model`.
    """
    config = ModelConfig.from_dict(checkpoint.config)
    weights = Weights(checkpoint, config.rms_norm_eps)
    builder = _Builder(config, weights, store)
    embed_tokens = Embedding(weights.matrix("model.embed_tokens", config.vocab_size, config.hidden_size))
    parts = Parts(
        config,
        embed_tokens,
        [builder.layer(index) for index in range(config.num_hidden_layers)],
        weights.norm("model.norm", config.hidden_size),
        None if config.tie_word_embeddings else Linear(builder.lm_head()),
        builder.mtp(embed_tokens) if checkpoint.has_mtp else None,
    )
    _refuse_remaining(weights.remaining())
    return parts


def read(module: M) -> M:
    """The module, its weights in memory.

    One parameter after another: at once, MLX allocates them all before it frees what they were made of.
    """
    for _, array in tree_flatten(module.parameters()):
        mx.eval(array)
    return module


class _Builder:
    """Names and shapes of a layer's tensors, as the checkpoints spell them."""

    def __init__(self, config: ModelConfig, weights: Weights, store: ExpertStore | None) -> None:
        self.config, self.weights, self.store = config, weights, store

    def layer(self, index: int) -> AttentionLayer | RecurrentLayer:
        path, sparse = f"model.layers.{index}", self.config.is_sparse(index)
        if self.config.is_recurrent(index):
            mixer = self._gated_delta_net(f"{path}.linear_attn")
            return RecurrentLayer(*self._around(path, mixer, sparse=sparse))
        return self._attention_layer(path, sparse=sparse)

    def lm_head(self) -> Matrix:
        return self.weights.matrix("lm_head", self.config.vocab_size, self.config.hidden_size)

    def mtp(self, embed_tokens: Embedding) -> MtpHead:
        width = self.config.hidden_size
        sparse = not self.weights.has("mtp.layers.0.mlp.gate_proj.weight")
        return MtpHead(
            embed_tokens,
            self.weights.norm("mtp.pre_fc_norm_embedding", width),
            self.weights.norm("mtp.pre_fc_norm_hidden", width),
            Linear(self.weights.matrix("mtp.fc", width, 2 * width)),
            self._attention_layer("mtp.layers.0", sparse=sparse),
            self.weights.norm("mtp.norm", width),
        )

    def _attention_layer(self, path: str, *, sparse: bool) -> AttentionLayer:
        return AttentionLayer(*self._around(path, self._attention(f"{path}.self_attn"), sparse=sparse))

    def _around(
        self, path: str, mixer: nn.Module, *, sparse: bool
    ) -> tuple[RmsNorm, nn.Module, RmsNorm, FeedForward]:
        """A layer's parts in order: what every layer has, around its mixer."""
        width = self.config.hidden_size
        return (
            self.weights.norm(f"{path}.input_layernorm", width),
            mixer,
            self.weights.norm(f"{path}.post_attention_layernorm", width),
            self._feed_forward(f"{path}.mlp", sparse=sparse),
        )

    def _gated_delta_net(self, path: str) -> GatedDeltaNet:
        c, w = self.config, self.weights
        keys, values, heads = c.linear_key_dim, c.linear_value_dim, c.linear_num_value_heads
        return GatedDeltaNet(
            c,
            w.matrix(f"{path}.in_proj_qkvz", 2 * keys + 2 * values, c.hidden_size),
            w.matrix(f"{path}.in_proj_ba", 2 * heads, c.hidden_size),
            w.convolution(f"{path}.conv1d", c.linear_conv_dim, c.linear_conv_kernel_dim),
            w.vector(f"{path}.A_log", heads),
            w.vector(f"{path}.dt_bias", heads),
            w.norm(f"{path}.norm", c.linear_value_head_dim, zero_centred=False),
            w.matrix(f"{path}.out_proj", c.hidden_size, values),
        )

    def _attention(self, path: str) -> Attention:
        c, w, bias = self.config, self.weights, self.config.attention_bias
        queries, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        return Attention(
            c,
            w.matrix(f"{path}.q_proj", 2 * queries, c.hidden_size, bias=bias),
            w.matrix(f"{path}.k_proj", keys, c.hidden_size, bias=bias),
            w.matrix(f"{path}.v_proj", keys, c.hidden_size, bias=bias),
            w.matrix(f"{path}.o_proj", c.hidden_size, queries, bias=bias),
            w.norm(f"{path}.q_norm", c.head_dim),
            w.norm(f"{path}.k_norm", c.head_dim),
        )

    def _feed_forward(self, path: str, *, sparse: bool) -> FeedForward:
        c, w = self.config, self.weights
        if not sparse:
            return Mlp(*self._swiglu(path, c.intermediate_size))
        router = w.matrix(f"{path}.gate", c.num_experts, c.hidden_size)
        shared_gate = w.matrix(f"{path}.shared_expert_gate", 1, c.hidden_size)
        experts, shared = self._experts(path)
        return SparseMoe(
            router, shared_gate, experts, shared, top_k=c.num_experts_per_tok, normalise=c.norm_topk_prob
        )

    def _swiglu(self, path: str, inner: int) -> tuple[Matrix, Matrix, Matrix]:
        width = self.config.hidden_size
        gate, up = (self.weights.matrix(f"{path}.{name}_proj", inner, width) for name in ("gate", "up"))
        return gate, up, self.weights.matrix(f"{path}.down_proj", width, inner)

    def _experts(self, path: str) -> tuple[Experts, Mlp | None]:
        """The experts, and the shared one where it cannot stand among them."""
        c, w = self.config, self.weights
        inner, width, count = c.moe_intermediate_size, c.hidden_size, c.num_experts
        gate, up = (w.experts(path, f"{name}_proj", count, inner, width) for name in ("gate", "up"))
        stacks = gate, up, w.experts(path, "down_proj", count, width, inner)
        shared = self._swiglu(f"{path}.shared_expert", c.shared_expert_intermediate_size)
        alike = all(stackable(stack, one) for stack, one in zip(stacks, shared, strict=True))
        if self.store is not None:
            pool = self.store.add(self._stored(path, with_shared=alike), self.weights.dtype)
            return PooledExperts(pool), None if alike else Mlp(*shared)
        if alike:
            return Experts.resident(*(stacked(s, o) for s, o in zip(stacks, shared, strict=True))), None
        return Experts.resident(*stacks), Mlp(*shared)

    def _stored(self, path: str, *, with_shared: bool) -> StoredExperts:
        """Where the experts lie, the shared one behind the others if it is to stand there."""
        w, count = self.weights, self.config.num_experts
        found = []
        for name in ("gate_proj", "up_proj", "down_proj"):
            projection = w.stored(path, name, count)
            if with_shared:
                projection = projection.followed_by(w.stored_alone(f"{path}.shared_expert.{name}"))
            found.append(projection)
        return StoredExperts(path, count, *found)


def _refuse_remaining(names: list[str]) -> None:
    unknown = [name for name in names if not name.endswith("rotary_emb.inv_freq")]
    if unknown:
        raise CheckpointError(
            f"The checkpoint's config.json does not describe {len(unknown)} of its tensors, the first of them "
            f"{shown(unknown[0])}: config.json and the weights are not of one model; download it again."
        )
