"""The multi-token-prediction head: from the trunk's state at one token and the token after it, the token after that."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from mlx_qnext.mlx_lm_parts import KVCache, create_attention_mask
from mlx_qnext.model.layers import AttentionLayer
from mlx_qnext.model.linear import Embedding, Linear
from mlx_qnext.model.norm import RmsNorm


class MtpHead(nn.Module):
    """`mtp.*` of a checkpoint, as vLLM's and SGLang's Qwen3-Next MTP models compute it.

    The idea is DeepSeek-V3's (arXiv 2412.19437, section 2.2).

    The embedding is the trunk's own, and so is the output head that turns its hidden states into logits.
    """

    def __init__(
        self,
        embed_tokens: Embedding,
        pre_fc_norm_embedding: RmsNorm,
        pre_fc_norm_hidden: RmsNorm,
        fc: Linear,
        layer: AttentionLayer,
        norm: RmsNorm,
    ) -> None:
        super().__init__()
        # Behind an underscore, which MLX leaves out of the parameters: it is the trunk's, and counted there.
        self._embed_tokens = embed_tokens
        self.pre_fc_norm_embedding, self.pre_fc_norm_hidden = pre_fc_norm_embedding, pre_fc_norm_hidden
        self.fc, self.layer, self.norm = fc, layer, norm

    def __call__(self, hidden: mx.array, tokens: mx.array, cache: KVCache | None = None) -> mx.array:
        """Hidden states `[B, T, hidden]` at positions t and the tokens `[B, T]` at t + 1 → states that predict t + 2.

        `hidden` is the trunk's output after its final norm, or this head's own output when it drafts further; `cache`
        advances by T, and entry t belongs to position t.
        """
        x = self._joined(hidden, tokens)
        return self.norm(self.layer(x, create_attention_mask(x, cache), cache))

    def last(self, hidden: mx.array, tokens: mx.array, cache: KVCache) -> mx.array:
        """The last position's state `[B, 1, hidden]` of the same call; the others leave keys and values and visit no expert."""
        x = self._joined(hidden, tokens)
        projected = self.layer.project(x)
        asked = projected._replace(q=projected.q[:, -1:], gate=projected.gate[:, -1:])
        attended = self.layer.mixer.attend(asked, None, cache)
        return self.norm(self.layer.feed(self.layer.join(x[:, -1:], attended, asked.gate)))

    def read(self, hidden: mx.array, tokens: mx.array, cache: KVCache) -> None:
        """Leave the keys and values of the same call, and compute nothing else of it."""
        x = self._joined(hidden, tokens)
        self.layer.mixer.attend(self.layer.project(x), create_attention_mask(x, cache), cache)

    def _joined(self, hidden: mx.array, tokens: mx.array) -> mx.array:
        embedded = self.pre_fc_norm_embedding(self._embed_tokens(tokens))
        return self.fc(mx.concatenate([embedded, self.pre_fc_norm_hidden(hidden)], axis=-1))

    def make_cache(self) -> KVCache:
        """An empty cache for the head's one layer."""
        return KVCache()
