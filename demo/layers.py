"""The layers of Qwen3-Next in PyTorch, for packed training; parameters are named as in the released checkpoints.

The mixture of experts is computed densely, all experts with zero weight outside the top k: the same result, and
faster at this size. Methods named `before_*` and `after_*` are the regions that are compiled on a GPU; the sequence
mixing between them is a kernel of its own.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo.architecture import Architecture
from demo.layout import Layout

FORGET = -16.0
"""Log-decay at the first token of a chat: the state of the chat before it is multiplied by about 1e-7."""


def linear(inputs: int, outputs: int, scale: float = 1.0) -> nn.Linear:
    """Return a layer without bias, its weights drawn with standard deviation scale/√inputs."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=scale / math.sqrt(inputs))
    return layer


class RMSNorm(nn.Module):
    """RMS norm with a zero-centred weight: y = x̂ (1 + w)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis in float32 and return x's dtype."""
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return (y * (1 + self.weight.float())).to(x.dtype)


class _Weight(nn.Module):
    """A weight with a name of its own in the checkpoint."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(value)


class GatedDeltaNet(nn.Module):
    """The recurrent mixer; its projections are grouped by key head."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.key_heads, self.value_heads = a.linear_num_key_heads, a.linear_num_value_heads
        self.key_dim, self.value_dim, self.eps = (
            a.linear_key_head_dim,
            a.linear_value_head_dim,
            a.rms_norm_eps,
        )
        keys, values = self.key_heads * self.key_dim, self.value_heads * self.value_dim
        self.in_proj_qkvz = linear(a.hidden_size, 2 * keys + 2 * values)
        self.in_proj_ba = linear(a.hidden_size, 2 * self.value_heads)
        channels, taps = 2 * keys + values, a.linear_conv_kernel_dim
        self.conv1d = _Weight(torch.empty(channels, 1, taps).uniform_(-(taps**-0.5), taps**-0.5))
        # Time constants between 10 and 1000 tokens at the start, through softplus.
        rate = torch.exp(torch.empty(self.value_heads).uniform_(math.log(0.001), math.log(0.1)))
        self.dt_bias = nn.Parameter(rate + torch.log(-torch.expm1(-rate)))
        self.A_log = nn.Parameter(torch.empty(self.value_heads).uniform_(1, 16).log())
        self.norm = _Weight(torch.ones(self.value_dim))
        self.out_proj = linear(values, a.hidden_size, 0.5)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x [B, T, H] → q|k|v channels [B, T, C], z [B, T, Hv, Dv], log-decay and beta [B, T, Hv]."""
        heads = (*x.shape[:2], self.key_heads, -1)
        per_key = self.value_heads // self.key_heads
        width = per_key * self.value_dim
        mixed = self.in_proj_qkvz(x).view(heads)
        q, k, v, z = mixed.split((self.key_dim, self.key_dim, width, width), -1)
        b, a = self.in_proj_ba(x).view(heads).split((per_key, per_key), -1)
        channels = torch.cat((q.flatten(2), k.flatten(2), v.flatten(2)), -1)
        step = F.softplus(a.flatten(2).float() + self.dt_bias.float())
        log_decay = -self.A_log.float().exp() * step
        return channels, z.reshape(*x.shape[:2], self.value_heads, -1), log_decay, b.flatten(2).sigmoid()

    def split(self, channels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., C] → q, k [..., Hk, Dk] and v [..., Hv, Dv]."""
        keys = self.key_heads * self.key_dim
        q, k, v = channels.split((keys, keys, channels.shape[-1] - 2 * keys), -1)
        shape = (self.key_heads, self.key_dim)
        return (
            q.unflatten(-1, shape),
            k.unflatten(-1, shape),
            v.unflatten(-1, (self.value_heads, self.value_dim)),
        )

    def convolve(self, channels: Tensor, same: Tensor) -> Tensor:
        """Causal depthwise convolution over [B, T, C] that stays within a chat, then SiLU."""
        taps = self.conv1d.weight[:, 0].to(channels.dtype)
        last, length = taps.shape[1] - 1, channels.shape[1]
        y = channels * taps[:, last]
        for back in range(1, last + 1):
            earlier = F.pad(channels, (0, 0, back, 0))[:, :length]
            y = y + earlier * same[..., back - 1, None].to(channels.dtype) * taps[:, last - back]
        return F.silu(y)

    def gate(self, output: Tensor, z: Tensor) -> Tensor:
        """Gated norm of the rule's output [B, T, Hv, Dv], projected back to [B, T, H]."""
        o = output.float()
        o = o * torch.rsqrt(o.square().mean(-1, keepdim=True) + self.eps) * self.norm.weight.float()
        return self.out_proj((o * F.silu(z.float())).flatten(2).to(z.dtype))


def rotate(x: Tensor, positions: Tensor, fraction: float, theta: float) -> Tensor:
    """Rotary embedding of the first `fraction` of the head dimension; x [B, T, H, D], positions [T]."""
    size = int(x.shape[-1] * fraction)
    powers = torch.arange(0, size, 2, device=x.device, dtype=torch.float32) / size
    angles = (positions.float()[:, None] * theta**-powers)[:, None, :]
    angles = torch.cat((angles, angles), -1)
    head, tail = x[..., :size].float(), x[..., size:]
    turned = torch.cat((-head[..., size // 2 :], head[..., : size // 2]), -1)
    return torch.cat(((head * angles.cos() + turned * angles.sin()).to(x.dtype), tail), -1)


class Attention(nn.Module):
    """Grouped-query attention with an output gate; q_proj yields query and gate per head."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.head_dim, self.fraction, self.theta = a.head_dim, a.partial_rotary_factor, a.rope_theta
        heads, kv_heads = a.num_attention_heads * a.head_dim, a.num_key_value_heads * a.head_dim
        self.q_proj = linear(a.hidden_size, 2 * heads)
        self.k_proj = linear(a.hidden_size, kv_heads)
        self.v_proj = linear(a.hidden_size, kv_heads)
        self.o_proj = linear(heads, a.hidden_size, 0.5)
        self.q_norm, self.k_norm = RMSNorm(a.head_dim, a.rms_norm_eps), RMSNorm(a.head_dim, a.rms_norm_eps)

    def project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x [B, T, H] → q, k, v and the gate, each [B, T, heads, D]."""
        q, gate = self.q_proj(x).unflatten(-1, (-1, 2 * self.head_dim)).chunk(2, -1)
        k = self.k_proj(x).unflatten(-1, (-1, self.head_dim))
        v = self.v_proj(x).unflatten(-1, (-1, self.head_dim))
        q = rotate(self.q_norm(q), positions, self.fraction, self.theta)
        k = rotate(self.k_norm(k), positions, self.fraction, self.theta)
        return q.to(v.dtype), k.to(v.dtype), v, gate

    def gated(self, output: Tensor, gate: Tensor) -> Tensor:
        """Gate the attention output [B, T, heads, D] and project it back to [B, T, H]."""
        return self.o_proj((output * gate.sigmoid()).flatten(2))


class _Experts(nn.Module):
    """All experts in three stacks [E, I, H]; `down_proj` holds each expert's matrix transposed."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        shape = (a.num_experts, a.moe_intermediate_size, a.hidden_size)
        self.gate_proj = nn.Parameter(torch.randn(shape) / math.sqrt(a.hidden_size))
        self.up_proj = nn.Parameter(torch.randn(shape) / math.sqrt(a.hidden_size))
        self.down_proj = nn.Parameter(torch.randn(shape) * 0.5 / math.sqrt(a.moe_intermediate_size))

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return the sum over experts of weights [B, T, E] times the expert's output for x [B, T, H]."""
        hidden = F.silu(F.linear(x, self.gate_proj.flatten(0, 1))) * F.linear(x, self.up_proj.flatten(0, 1))
        experts = hidden.unflatten(-1, self.gate_proj.shape[:2]) * weights[..., None].to(hidden.dtype)
        return F.linear(experts.flatten(2), self.down_proj.flatten(0, 1).t())


class _SharedExpert(nn.Module):
    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.gate_proj = linear(a.hidden_size, a.shared_expert_intermediate_size)
        self.up_proj = linear(a.hidden_size, a.shared_expert_intermediate_size)
        self.down_proj = linear(a.shared_expert_intermediate_size, a.hidden_size, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MixtureOfExperts(nn.Module):
    """Softmax router, top k renormalised, plus one shared expert behind a sigmoid gate."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.active = a.num_experts_per_tok
        self.gate = linear(a.hidden_size, a.num_experts)
        self.experts = _Experts(a)
        self.shared_expert = _SharedExpert(a)
        self.shared_expert_gate = linear(a.hidden_size, 1)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights of all experts [B, T, E], zero outside the top k, and the load-balancing loss."""
        with torch.autocast(x.device.type, enabled=False):
            chance = F.linear(x.float(), self.gate.weight.float()).softmax(-1)
        # Mark the largest k one by one: this fuses into the kernels around it, a sort would not.
        left = chance.detach()
        for _ in range(self.active):
            left = left.masked_fill(left >= left.amax(-1, keepdim=True), -1.0)
        chosen = left < 0
        weights = torch.where(chosen, chance, 0.0)
        load = chosen.float().flatten(0, -2).mean(0) * (chosen.shape[-1] / self.active)
        balance = (load * chance.flatten(0, -2).mean(0)).sum()
        return weights / weights.sum(-1, keepdim=True), balance

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output [B, T, H] and the load-balancing loss, which is 1 for even loads."""
        weights, balance = self.route(x)
        shared = self.shared_expert_gate(x).sigmoid() * self.shared_expert(x)
        return self.experts(x, weights) + shared, balance


class DecoderLayer(nn.Module):
    """One layer: norm, mixer, residual; norm, experts, residual."""

    def __init__(self, a: Architecture, recurrent: bool) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.input_layernorm = RMSNorm(a.hidden_size, a.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(a.hidden_size, a.rms_norm_eps)
        if recurrent:
            self.linear_attn = GatedDeltaNet(a)
        else:
            self.self_attn = Attention(a)
        self.mlp = MixtureOfExperts(a)

    def before_delta(self, x: Tensor, first: Tensor, same: Tensor) -> tuple[Tensor, ...]:
        """Return q, k, v, log-decay, beta and z of a recurrent layer."""
        channels, z, log_decay, beta = self.linear_attn.project(self.input_layernorm(x))
        q, k, v = self.linear_attn.split(self.linear_attn.convolve(channels, same))
        return q, k, v, log_decay.masked_fill(first[..., None], FORGET), beta, z

    def after_delta(self, x: Tensor, output: Tensor, z: Tensor) -> Tensor:
        """Add the recurrent mixer's output to the residual stream."""
        return x + self.linear_attn.gate(output, z)

    def before_attention(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return q, k, v and the gate of an attention layer."""
        return self.self_attn.project(self.input_layernorm(x), positions)

    def after_attention(self, x: Tensor, output: Tensor, gate: Tensor) -> Tensor:
        """Add the attention's output to the residual stream."""
        return x + self.self_attn.gated(output, gate)

    def after_mixer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Add the experts' output to the residual stream; return it with the load-balancing loss."""
        y, balance = self.mlp(self.post_attention_layernorm(x))
        return x + y, balance

    def forward(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """x [B, T, H] → the same shape, and the load-balancing loss."""
        if self.recurrent:
            q, k, v, log_decay, beta, z = self.before_delta(x, layout.first, layout.same)
            x = self.after_delta(x, layout.delta_rule(q, k, v, log_decay, beta), z)
        else:
            q, k, v, gate = self.before_attention(x, layout.positions)
            x = self.after_attention(x, layout.attend(q, k, v)[0], gate)
        return self.after_mixer(x)
