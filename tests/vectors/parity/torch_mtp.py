"""The MTP head in torch around transformers' own decoder layer: the oracle that the numpy reference is checked against."""

from __future__ import annotations

import copy

import numpy as np
import torch
from transformers.masking_utils import create_causal_mask
from transformers.models.qwen3_next.modeling_qwen3_next import (
    Qwen3NextConfig,
    Qwen3NextDecoderLayer,
    Qwen3NextForCausalLM,
    Qwen3NextRMSNorm,
    Qwen3NextRotaryEmbedding,
)


class TorchMtp(torch.nn.Module):
    """`mtp.*`: two norms, `fc`, one full-attention decoder layer with its MoE, a norm. Its parameters carry those names."""

    def __init__(self, config: Qwen3NextConfig):
        super().__init__()
        self.config = copy.deepcopy(config)
        self.config.layer_types = ["full_attention"]
        self.config.num_hidden_layers = 1
        self.config.mlp_only_layers, self.config.decoder_sparse_step = [], 1
        self.config._attn_implementation = self.config._experts_implementation = "eager"
        self.fc = torch.nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.pre_fc_norm_embedding = Qwen3NextRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.pre_fc_norm_hidden = Qwen3NextRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.layers = torch.nn.ModuleList([Qwen3NextDecoderLayer(self.config, 0)])
        self.norm = Qwen3NextRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = Qwen3NextRotaryEmbedding(self.config)

    def forward(self, embeddings: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Embeddings of token t+1 and hidden states of position t, both [1, T, D] → post-norm hidden [1, T, D]."""
        x = self.fc(
            torch.cat([self.pre_fc_norm_embedding(embeddings), self.pre_fc_norm_hidden(hidden)], dim=-1)
        )
        positions = torch.arange(x.shape[1])[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=x,
            attention_mask=None,
            past_key_values=None,
            position_ids=positions,
        )
        x = self.layers[0](x, self.rotary(x, positions), attention_mask=mask, position_ids=positions)
        return self.norm(x)


def mtp_goldens(
    mtp: TorchMtp, model: Qwen3NextForCausalLM, tokens: torch.Tensor, hidden: torch.Tensor, drafts: int
) -> dict[str, np.ndarray]:
    """Outputs at the T-1 positions that have a next token, then `drafts` greedy steps that feed the head's own hidden back.

    A draft step appends one position and recomputes all of them: no cache that could hide a mistake in one.
    """
    next_tokens, inputs = tokens[:, 1:], hidden[:, :-1]
    embed = model.model.embed_tokens
    out = mtp(embed(next_tokens), inputs)
    goldens = {"hidden": out[0], "logits": model.lm_head(out)[0]}
    chosen, states = [], []
    for _ in range(drafts):
        chosen.append(model.lm_head(out[:, -1:]).argmax(-1))
        next_tokens = torch.cat([next_tokens, chosen[-1]], dim=1)
        inputs = torch.cat([inputs, out[:, -1:]], dim=1)
        out = mtp(embed(next_tokens), inputs)
        states.append(out[:, -1:])
    drafted = torch.cat(states, dim=1)
    goldens |= {"draft_hidden": drafted[0], "draft_logits": model.lm_head(drafted)[0]}
    goldens["draft_tokens"] = torch.cat(chosen, dim=1)[0].int()
    return {name: value.numpy() for name, value in goldens.items()}
