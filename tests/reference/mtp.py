"""The MTP head in numpy fp64, one position and one head at a time: slow, plain, and independent of the model under test.

Facts as in vLLM's and SGLang's qwen3_next_mtp: x_t = fc([norm(embed(token_{t+1})), norm(h_t)]), the embedding first, h_t the
trunk's output after its final norm; one full-attention decoder layer with its own experts; `mtp.norm`; the trunk's lm_head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from reference.rotary import rotate

Array = np.ndarray
LAYER = "mtp.layers.0."


@dataclass
class MtpReference:
    """The head over one growing sequence. Each `step` is one position; keys and values of earlier ones are kept.

    Attributes:
        tensors: a checkpoint's own tensors by name, zero-centred norms and unfused experts.
        config: its config.json.
    """

    tensors: dict[str, Array]
    config: dict[str, Any]
    keys: list[Array] = field(default_factory=list)
    values: list[Array] = field(default_factory=list)

    def prefill(self, hidden: Array, tokens: Array) -> Array:
        """Pair hidden[t] with tokens[t + 1] at the next positions → post-norm hidden [T - 1, D]."""
        return np.stack([self.step(hidden[t], int(tokens[t + 1])) for t in range(len(tokens) - 1)])

    def step(self, hidden: Array, next_token: int) -> Array:
        """One more position: the trunk's hidden state (or this head's own, when drafting) and the token after it."""
        embedded = self._norm(
            "mtp.pre_fc_norm_embedding", self._weight("model.embed_tokens.weight")[next_token]
        )
        carried = self._norm("mtp.pre_fc_norm_hidden", hidden.astype(np.float64))
        x = self._weight("mtp.fc.weight") @ np.concatenate([embedded, carried])
        x = x + self._attention(self._norm(LAYER + "input_layernorm", x))
        x = x + self._experts(self._norm(LAYER + "post_attention_layernorm", x))
        return self._norm("mtp.norm", x)

    def logits(self, hidden: Array) -> Array:
        """[…, D] → [..., V] through the trunk's own output projection."""
        tied = self.config.get("tie_word_embeddings", False)
        return hidden @ self._weight("model.embed_tokens.weight" if tied else "lm_head.weight").T

    def _attention(self, x: Array) -> Array:
        heads, kv_heads, dim = (
            self.config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim")
        )
        position = len(self.keys)
        query_and_gate = self._linear(LAYER + "self_attn.q_proj", x).reshape(heads, 2 * dim)
        queries = self._norm(LAYER + "self_attn.q_norm", query_and_gate[:, :dim])
        keys = self._norm(
            LAYER + "self_attn.k_norm", self._linear(LAYER + "self_attn.k_proj", x).reshape(kv_heads, dim)
        )
        self.keys.append(rotate(keys, position, self.config))
        self.values.append(self._linear(LAYER + "self_attn.v_proj", x).reshape(kv_heads, dim))
        outputs = []
        for head in range(heads):
            kv_head = head // (heads // kv_heads)
            query = rotate(queries[head], position, self.config)
            scores = np.array([key[kv_head] @ query for key in self.keys]) * dim**-0.5
            mixed = softmax(scores) @ np.stack([value[kv_head] for value in self.values])
            outputs.append(mixed * sigmoid(query_and_gate[head, dim:]))
        return self._linear(LAYER + "self_attn.o_proj", np.concatenate(outputs))

    def _experts(self, x: Array) -> Array:
        probabilities = softmax(self._weight(LAYER + "mlp.gate.weight") @ x)
        chosen = np.argsort(-probabilities)[: self.config["num_experts_per_tok"]]
        scale = probabilities[chosen].sum() if self.config.get("norm_topk_prob", True) else 1.0
        out = sigmoid(self._weight(LAYER + "mlp.shared_expert_gate.weight") @ x) * self._mlp(
            "mlp.shared_expert", x
        )
        for expert in chosen:
            out = out + probabilities[expert] / scale * self._mlp(f"mlp.experts.{expert}", x)
        return out

    def _mlp(self, name: str, x: Array) -> Array:
        gate = self._weight(f"{LAYER}{name}.gate_proj.weight") @ x
        up = self._weight(f"{LAYER}{name}.up_proj.weight") @ x
        return self._weight(f"{LAYER}{name}.down_proj.weight") @ (gate * sigmoid(gate) * up)

    def _norm(self, name: str, x: Array) -> Array:
        """RMS norm with a zero-centred weight, as checkpoints store it."""
        rms = np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.config["rms_norm_eps"])
        return x / rms * (1 + self._weight(name + ".weight"))

    def _linear(self, name: str, x: Array) -> Array:
        out = self._weight(name + ".weight") @ x
        return out + self._weight(name + ".bias") if name + ".bias" in self.tensors else out

    def _weight(self, name: str) -> Array:
        return self.tensors[name].astype(np.float64)


def softmax(x: Array) -> Array:
    exponentials = np.exp(x - x.max())
    return exponentials / exponentials.sum()


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))
