"""One decode step of Llama-shaped models by hand: fewer, larger operations than their modules run.

Queries, keys and values come from one product, so do gate and up; rotations are read from a table, residuals are
added by the products, and in float32 on a CPU the weights of norms are in the products that follow them. On a small
model a step is mostly the cost of starting operations, so this pays; the result is the modules' own (tested).
LoRA weights are merged into copies in float32; in half precision a merged weight would lose what is small beside it, and
so their two products stay, one pair for all layers that read the same input. The copies are of the weights at
construction: a new one is made for new weights.

Shape suffixes: R rows, H heads, K key/value heads, G query heads per key/value head, D head size, W width, P positions,
N rows times key/value heads, S key positions.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from reasoner.engine.kv import SlotCache, kv_shape
from reasoner.policy.attention import Seen, attend_one

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
FIXED_ROPE = ("default", "linear", "llama3", "yarn")  # the others' angles depend on the sequence's length
MAX_BYTES = 1 << 30  # of copied weights


class _Linear(NamedTuple):
    weight: torch.Tensor
    bias: torch.Tensor | None
    low: tuple[torch.Tensor, torch.Tensor] | None = None  # LoRA's A and scaled B where they are not merged

    def of(self, x_RW: torch.Tensor) -> torch.Tensor:
        out_RW = F.linear(x_RW, self.weight, self.bias)
        return out_RW if self.low is None else self._add_low(x_RW, out_RW)

    def add_to(self, x_RW: torch.Tensor, out_RW: torch.Tensor) -> None:
        """Add the product of x and, if there is one, the bias to `out_RW`."""
        out_RW.addmm_(x_RW, self.weight.t())
        if self.bias is not None:
            out_RW.add_(self.bias)
        if self.low is not None:
            self._add_low(x_RW, out_RW)

    def _add_low(self, x_RW: torch.Tensor, out_RW: torch.Tensor) -> torch.Tensor:
        assert self.low is not None
        down, up = self.low
        return out_RW.addmm_(F.linear(x_RW, down), up.t())


class _Block(NamedTuple):
    norm: torch.Tensor | None  # None where the products hold it
    qkv: _Linear  # per key/value head its queries, its key and its value
    query_norm: torch.Tensor | None  # of Qwen 3
    key_norm: torch.Tensor | None
    out: _Linear
    mlp_norm: torch.Tensor | None
    gate_up: _Linear
    down: _Linear
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
    if not all(_is_plain(m) or _is_lora(m) for m in linear):
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


def _weights(*modules) -> _Linear:
    """The weights and biases of linear layers that read the same input, one below the other."""
    if len(modules) == 1 and _is_plain(modules[0]):
        return _Linear(modules[0].weight, modules[0].bias)
    weights, biases, downs, ups = [], [], [], []
    for m in modules:
        plain = m if _is_plain(m) else m.base_layer
        weight = plain.weight
        for name in _active(m):
            if weight.dtype == torch.float32:
                weight = weight + m.get_delta_weight(name)
            else:
                downs.append(m.lora_A[name].weight)
                ups.append((len(weights), m.lora_B[name].weight * m.scaling[name]))
        weights.append(weight)
        biases.append(plain.bias if plain.bias is not None else weight.new_zeros(weight.shape[0]))
    has_bias = any(b.any() for b in biases)
    return _Linear(torch.cat(weights), torch.cat(biases) if has_bias else None, _low(weights, downs, ups))


def _active(module) -> list[str]:
    """LoRA adapters whose products are still to be added to a linear layer's own."""
    if _is_plain(module) or module.merged or module.disable_adapters:
        return []
    return [name for name in module.active_adapters if name in module.lora_A]


def _low(
    weights: list[torch.Tensor], downs: list[torch.Tensor], ups: list[tuple[int, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """All A one below the other, and all B (with the number of their layer) where their layers' outputs are."""
    if not downs:
        return None
    down = torch.cat(downs)
    up = down.new_zeros(sum(map(len, weights)), len(down))
    starts = [0, *accumulate(map(len, weights))]
    rank = 0
    for layer, of_layer in ups:
        up[starts[layer] : starts[layer + 1], rank : rank + of_layer.shape[1]] = of_layer
        rank += of_layer.shape[1]
    dtype = weights[0].dtype
    return down.to(dtype), up.to(dtype)


class Decoder:
    """A decode step from the present weights of `model`; `fits(model)` must hold."""

    def __init__(self, model, max_context: int):
        base, config = model.base_model, model.config.get_text_config()
        _, self.key_heads, self.head_dim = kv_shape(model)
        self.groups = config.num_attention_heads // self.key_heads
        self.eps = config.rms_norm_eps
        # called as a module: it may have an adapter or tokens of its own
        self.embed, self.norm = base.embed_tokens, base.norm.weight
        self.width = config.hidden_size
        self.folds = model.device.type == "cpu" and model.dtype == torch.float32
        self.least_norm = torch.tensor((self.width * self.eps) ** 0.5)
        self.last_scale_W = self.norm * self.width**0.5
        position_1P = torch.arange(max_context, device=model.device)[None]
        cos, sin = base.rotary_emb(self.norm[None], position_1P)
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
        norm, qkv = self._fold(layer.input_layernorm.weight, self._by_head(_weights(query, key, value)))
        mlp_norm, gate_up = self._fold(layer.post_attention_layernorm.weight, _weights(gate, up))
        return _Block(
            norm=norm,
            qkv=qkv,
            query_norm=a.q_norm.weight if hasattr(a, "q_norm") else None,
            key_norm=a.k_norm.weight if hasattr(a, "k_norm") else None,
            out=_weights(out),
            mlp_norm=mlp_norm,
            gate_up=gate_up,
            down=_weights(down),
            window=window,
            scale=a.scaling,
        )

    def _by_head(self, qkv: _Linear) -> _Linear:
        """All queries, all keys, all values -> per key/value head its queries, its key, its value."""
        K, G, D = self.key_heads, self.groups, self.head_dim

        def ordered(x: torch.Tensor) -> torch.Tensor:
            query, key, value = x.unflatten(0, (-1, D)).split((K * G, K, K))
            by_head = (query.unflatten(0, (K, G)), key.unsqueeze(1), value.unsqueeze(1))
            return torch.cat(by_head, 1).flatten(0, 2)

        low = None if qkv.low is None else (qkv.low[0], ordered(qkv.low[1]))
        return _Linear(ordered(qkv.weight), None if qkv.bias is None else ordered(qkv.bias), low)

    def _fold(self, norm_W: torch.Tensor, following: _Linear) -> tuple[torch.Tensor | None, _Linear]:
        """The norm's weight, or None and the product that follows with this weight and the root of the width in it."""
        if not self.folds:
            return norm_W, following
        return None, following._replace(weight=following.weight * (norm_W * self.width**0.5))

    def _normed(self, x_RW: torch.Tensor, weight_W: torch.Tensor | None) -> torch.Tensor:
        """RMS norm; without a weight, divided by the root of the width, which is then in the product that follows.

        x / sqrt(|x|² / W + eps) = sqrt(W) · x / sqrt(|x|² + W · eps): on a CPU three operations instead of six.
        """
        if weight_W is not None:
            return F.rms_norm(x_RW, (self.width,), weight_W, self.eps)
        return x_RW / torch.linalg.vector_norm(x_RW, dim=-1, keepdim=True).hypot_(self.least_norm)

    def __call__(
        self, token_R: torch.Tensor, position_R: torch.Tensor, cache: SlotCache, seen: Seen
    ) -> torch.Tensor:
        """Last hidden states [R, W] of one token per row; its keys and values go into `cache`, selected for them."""
        num_rows, K, G, D = len(token_R), self.key_heads, self.groups, self.head_dim
        x_RW = self.embed(token_R)
        cos_R11D, sin_R11D = self.cos_PD[position_R][:, None, None], self.sin_PD[position_R][:, None, None]
        for i, b in enumerate(self.blocks):
            qkv = b.qkv.of(self._normed(x_RW, b.norm)).view(num_rows, K, G + 2, D)
            qk = qkv[:, :, : G + 1]
            if b.query_norm is not None:
                query, key = qk.split((G, 1), 2)
                query.copy_(F.rms_norm(query, (D,), b.query_norm, self.eps))
                key.copy_(F.rms_norm(key, (D,), b.key_norm, self.eps))
            rolled = qk.roll(D // 2, -1)
            qk.mul_(cos_R11D).addcmul_(rolled, sin_R11D)
            keys_RKSD, values_RKSD = cache.write_one(i, qkv[:, :, G:])
            mixed_RKGD = attend_one(qkv[:, :, :G], keys_RKSD, values_RKSD, seen, b.window, b.scale)
            b.out.add_to(mixed_RKGD.reshape(num_rows, K * G * D), x_RW)
            gate, up = b.gate_up.of(self._normed(x_RW, b.mlp_norm)).chunk(2, -1)
            b.down.add_to(F.silu(gate).mul_(up), x_RW)
        if self.folds:
            return self._normed(x_RW, None).mul_(self.last_scale_W)
        return self._normed(x_RW, self.norm)
