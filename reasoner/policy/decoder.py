"""One decode step of Llama-shaped models by hand: fewer, larger operations than their modules run.

Queries, keys and values come from one product, so do gate and up; rotations are read from a table. On a small
model a step is mostly the cost of starting operations, so this pays; the result is the modules' own (tested).
LoRA weights are merged into copies. The copies are of the weights at construction: a new one is made for new weights.

Shape suffixes: R rows, H heads, K key/value heads, G query heads per key/value head, D head size, W width, P positions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from reasoner.policy.attention import Seen, attend
from reasoner.policy.kv import SlotCache, kv_shape

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
FIXED_ROPE = ("default", "linear", "llama3", "yarn")  # the others' angles depend on the sequence's length
MAX_BYTES = 1 << 30  # of copied weights


class _Block(NamedTuple):
    norm: torch.Tensor
    qkv: tuple[torch.Tensor, torch.Tensor | None]
    query_norm: torch.Tensor | None  # of Qwen 3
    key_norm: torch.Tensor | None
    out: tuple[torch.Tensor, torch.Tensor | None]
    mlp_norm: torch.Tensor
    gate_up: tuple[torch.Tensor, torch.Tensor | None]
    down: tuple[torch.Tensor, torch.Tensor | None]
    window: int | None
    scale: float


def fits(model) -> bool:
    """True where the model has this shape and its copied weights stay small."""
    config = model.config.get_text_config()
    if config.model_type not in ARCHITECTURES or config.hidden_act != "silu":
        return False
    if config.rope_parameters.get("rope_type", "default") not in FIXED_ROPE:
        return False
    layers = model.base_model.layers
    linear = [m for layer in layers for m in (*_attention(layer), *_mlp(layer))]
    if not all(_is_plain(m) or (_is_lora(m) and model.dtype == torch.float32) for m in linear):
        return False
    return sum(m.weight.nbytes for m in linear) <= MAX_BYTES


def _attention(layer) -> tuple[Any, Any, Any, Any]:
    a = layer.self_attn
    return a.q_proj, a.k_proj, a.v_proj, a.o_proj


def _mlp(layer) -> tuple[Any, Any, Any]:
    return layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj


def _is_plain(module) -> bool:
    return type(module) is torch.nn.Linear


def _is_lora(module) -> bool:
    """A PEFT layer on a linear one whose active adapters only add B·A, so that merging is the same."""
    active = getattr(module, "active_adapters", None)
    if active is None or not _is_plain(getattr(module, "base_layer", None)) or not hasattr(module, "lora_A"):
        return False
    return not module.lora_variant and not any(module.lora_bias.get(a) for a in active)


def _weights(*modules) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The weights and biases of linear layers that read the same input, one below the other."""
    if len(modules) == 1 and _is_plain(modules[0]):
        return modules[0].weight, modules[0].bias
    weights, biases = [], []
    for m in modules:
        plain = m if _is_plain(m) else m.base_layer
        weight = plain.weight
        if plain is not m and not m.merged and not m.disable_adapters:
            for name in m.active_adapters:
                if name in m.lora_A:
                    weight = weight + m.get_delta_weight(name)
        weights.append(weight)
        biases.append(plain.bias if plain.bias is not None else weight.new_zeros(weight.shape[0]))
    has_bias = any(b.any() for b in biases)
    return torch.cat(weights), torch.cat(biases) if has_bias else None


class Decoder:
    """A decode step from the present weights of `model`; `fits(model)` must hold."""

    def __init__(self, model, max_context: int):
        base, config = model.base_model, model.config.get_text_config()
        _, self.key_heads, self.head_dim = kv_shape(model)
        self.heads = config.num_attention_heads
        self.eps = config.rms_norm_eps
        self.embedding, self.norm = base.embed_tokens.weight, base.norm.weight
        position_1P = torch.arange(max_context, device=model.device)[None]
        cos, sin = base.rotary_emb(self.embedding[:1], position_1P)
        # rotate_half as a roll: its sign goes into the sine
        sign = torch.cat((-torch.ones(self.head_dim // 2), torch.ones(self.head_dim // 2))).to(sin)
        self.cos_PD, self.sin_PD = cos[0], sin[0] * sign
        self.blocks = [self._block(layer, config) for layer in base.layers]

    def _block(self, layer, config) -> _Block:
        query, key, value, out = _attention(layer)
        gate, up, down = _mlp(layer)
        a = layer.self_attn
        window = getattr(a, "sliding_window", None) or (
            config.sliding_window if config.model_type == "mistral" else None
        )
        return _Block(
            norm=layer.input_layernorm.weight,
            qkv=_weights(query, key, value),
            query_norm=a.q_norm.weight if hasattr(a, "q_norm") else None,
            key_norm=a.k_norm.weight if hasattr(a, "k_norm") else None,
            out=_weights(out),
            mlp_norm=layer.post_attention_layernorm.weight,
            gate_up=_weights(gate, up),
            down=_weights(down),
            window=window,
            scale=a.scaling,
        )

    def __call__(
        self, token_R: torch.Tensor, position_R: torch.Tensor, cache: SlotCache, seen: Seen
    ) -> torch.Tensor:
        """Last hidden states [R, W] of one token per row; its keys and values go into `cache`, selected for them."""
        num_rows, H, K, D = len(token_R), self.heads, self.key_heads, self.head_dim
        x_RW = F.embedding(token_R, self.embedding)
        width = (x_RW.shape[1],)
        cos_R1D, sin_R1D = self.cos_PD[position_R][:, None], self.sin_PD[position_R][:, None]
        for i, b in enumerate(self.blocks):
            qkv = F.linear(F.rms_norm(x_RW, width, b.norm, self.eps), *b.qkv).view(num_rows, H + 2 * K, D)
            qk, value_RKD = qkv.split((H + K, K), 1)
            if b.query_norm is not None:
                query, key = qk.split((H, K), 1)
                qk = torch.cat(
                    (
                        F.rms_norm(query, (D,), b.query_norm, self.eps),
                        F.rms_norm(key, (D,), b.key_norm, self.eps),
                    ),
                    1,
                )
            qk = torch.addcmul(qk * cos_R1D, qk.roll(D // 2, -1), sin_R1D)
            query_RHD, key_RKD = qk.split((H, K), 1)
            keys_RKSD, values_RKSD = cache.write_new(i, key_RKD, value_RKD)
            query_RKG1D = query_RHD.unflatten(1, (K, H // K))[:, :, :, None]
            mixed = attend(query_RKG1D, keys_RKSD, values_RKSD, seen.bias(b.window), b.scale)
            x_RW = x_RW + F.linear(mixed.reshape(num_rows, H * D), *b.out)
            gate, up = F.linear(F.rms_norm(x_RW, width, b.mlp_norm, self.eps), *b.gate_up).chunk(2, -1)
            x_RW = x_RW + F.linear(F.silu(gate).mul_(up), *b.down)
        return F.rms_norm(x_RW, width, self.norm, self.eps)
