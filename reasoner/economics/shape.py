"""What the formulas need to know of a model: read from any Hugging Face config, counted on meta tensors.

Grouped queries (Ainslie et al. 2023), latent attention (DeepSeek-V2, section 2.1), windows that are the same in all
layers or alternate, mixtures of experts, tied embeddings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from reasoner.registry import UserError

FULL = ("full_attention", "attention", "global")


@dataclass(frozen=True)
class Latent:
    """Latent attention: what a token leaves in a cache that stores the compressed form, per layer."""

    rank: int  # of the compressed keys and values
    rope: int  # of the key's rotated part, shared by all heads


@dataclass(frozen=True)
class Shape:
    """A decoder's dimensions.

    `key_dim` and `value_dim` are the sizes of one head; `windows` holds per layer how many tokens it attends to at
    most, None for all.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    vocab: int
    windows: tuple[int | None, ...]
    latent: Latent | None = None


@dataclass(frozen=True)
class Parameters:
    """How many parameters there are, tied ones once.

    `dense` are those of the products that every token goes through, the output layer included; `experts` those of
    all experts, of which a token goes through the share `active_share`; `embedding` those that are only looked up.
    """

    total: int
    dense: int
    experts: int
    active_share: float
    embedding: int
    largest: int  # of the parameters, the one with the most numbers

    @property
    def active(self) -> float:
        """Parameters of the products that one token goes through."""
        return self.dense + self.experts * self.active_share


def shape_of(config: Any) -> Shape:
    """The dimensions in a config; a UserError that names what is missing."""
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    layers, hidden, heads = (
        _named(config, *names)
        for names in (
            ("num_hidden_layers", "n_layer", "num_layers"),
            ("hidden_size", "n_embd", "d_model"),
            ("num_attention_heads", "n_head", "num_heads"),
        )
    )
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    latent = None
    key_dim = value_dim = head_dim
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if getattr(config, "kv_lora_rank", None):
        latent = Latent(config.kv_lora_rank, config.qk_rope_head_dim)
        key_dim, value_dim = config.qk_nope_head_dim + config.qk_rope_head_dim, config.v_head_dim
        kv_heads = heads
    vocab = _named(config, "vocab_size")
    return Shape(layers, hidden, heads, kv_heads, key_dim, value_dim, vocab, _windows(config, layers), latent)


def _named(config: Any, *names: str) -> int:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    kind = getattr(config, "model_type", type(config).__name__)
    raise UserError(
        f"the config of {kind} has none of {', '.join(names)}; expected a decoder's config with its sizes"
    )


def _windows(config: Any, layers: int) -> tuple[int | None, ...]:
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return tuple(None if kind in FULL else window for kind in kinds)
    uses = getattr(config, "use_sliding_window", True)
    return (window if window and uses else None,) * layers


def skeleton(config: Any) -> Any:
    """The architecture itself on the meta device, without memory; the last few are kept, since large ones take seconds."""
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    key = f"{type(config).__name__} {config.to_json_string()}"
    if key not in _SKELETONS:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        while len(_SKELETONS) >= KEPT:
            del _SKELETONS[next(iter(_SKELETONS))]
        _SKELETONS[key] = model
    return _SKELETONS[key]


KEPT = 8
_SKELETONS: dict[str, Any] = {}


def inner_linears(config: Any) -> dict[str, nn.Linear]:
    """Every linear layer inside the blocks, the output layer left out, by its full name."""
    model = skeleton(config)
    head = model.get_output_embeddings()
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}


def count_parameters(config: Any) -> Parameters:
    """Counted on the architecture itself, built without memory."""
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    model = skeleton(config)
    head = model.get_output_embeddings()
    looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    total = sum(p.numel() for p in model.parameters())
    tied = head is not None and id(head.weight) in looked_up
    embedding = sum(p.numel() for p in model.parameters() if id(p) in looked_up)
    experts = sum(p.numel() for name, p in model.named_parameters() if _is_expert(name, p))
    dense = sum(
        p.numel() for name, p in model.named_parameters()
        if p.dim() == 2 and id(p) not in looked_up and not _is_expert(name, p)
    )  # fmt: skip
    if head is not None and tied:
        dense += head.weight.numel()
        embedding -= head.weight.numel()
    largest = max(p.numel() for p in model.parameters())
    return Parameters(total, dense, experts, _active_share(config), embedding, largest)


def feed_forward(config: Any) -> tuple[int, ...]:
    """By layer, values of a token that the backward pass needs of its feed-forward part.

    The gate, the up projection, the activation and their product (4 × inner size). In a layer of experts the same for each
    expert that a token goes through, with the token's input and its output there; beside it the shared experts, which each
    token goes through, and a probability for every expert.
    """
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    hidden = shape_of(config).hidden
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    each = getattr(config, "moe_intermediate_size", None) or inner
    shared = getattr(config, "shared_expert_intermediate_size", None) or each * (
        getattr(config, "n_shared_experts", None) or 0
    )
    number, taken = _experts(config)
    routed = taken * (4 * each + 2 * hidden) + number + (4 * shared + hidden if shared else 0)
    names = (name for name, p in skeleton(config).named_parameters() if _is_expert(name, p))
    sparse = {int(m.group(1)) for name in names if (m := _LAYER.search(name))}
    return tuple(routed if i in sparse else 4 * inner for i in range(shape_of(config).layers))


_LAYER = re.compile(r"\.(\d+)\.")  # the first number in a parameter's name is that of its layer


def norm_values(config: Any) -> float:
    """Values of a token that the norms of a layer read, in the mean over layers: two of the hidden size, in some
    architectures more, and norms of queries and keys head by head."""
    shape = shape_of(config)
    model = skeleton(config)
    heads = {"q_norm": shape.heads, "k_norm": shape.kv_heads}
    total = 0
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if _LAYER.search(name) and type(module).__name__.endswith("Norm") and weight is not None:
            size = weight.numel()
            total += size * (heads.get(name.rpartition(".")[2], 1) if size == shape.key_dim else 1)
    return total / shape.layers if total else 2.0 * shape.hidden


def _is_expert(name: str, parameter: torch.Tensor) -> bool:
    return ".experts." in name and parameter.dim() >= 2


def _active_share(config: Any) -> float:
    number, taken = _experts(config)
    return taken / number if number else 1.0


def _experts(config: Any) -> tuple[int, int]:
    """(experts of a layer, those that a token goes through); (0, 0) where there are none."""
    several = (
        getattr(config, name, None) for name in ("num_local_experts", "n_routed_experts", "num_experts")
    )
    number = next((n for n in several if n), 0)
    return number, config.num_experts_per_tok if number else 0
