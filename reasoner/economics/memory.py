"""Bytes: of keys and values, of weights, and of what training adds to them. Sizes in bytes, lengths in tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reasoner.economics.shape import Parameters, Shape, count_parameters, shape_of

HALF, SINGLE = 2, 4
NF4 = (
    0.5 + 4.127 / 64 / 4
)  # a weight in 4 bits, its doubly quantised scale per 64 (Dettmers et al. 2023, section 3)


def kv_cache_bytes(
    config: Any, tokens: int, batch: int = 1, bytes_per_value: float = HALF, compressed: bool = True
) -> float:
    """Keys and values of `batch` sequences of `tokens` each: batch × tokens × 2 × layers × head size × KV heads × bytes.

    A layer with a window keeps no more tokens than this. Latent attention keeps its compressed form (rank plus the
    rotated part, once for all heads), or with `compressed=False` the keys and values of all heads, as transformers does.
    """
    shape = shape_of(config)
    kept = sum(min(tokens, window) if window else tokens for window in shape.windows)
    if shape.latent is not None and compressed:
        per_token = shape.latent.rank + shape.latent.rope
    else:
        per_token = shape.kv_heads * (shape.key_dim + shape.value_dim)
    return batch * kept * per_token * bytes_per_value


def shared_kv_bytes(
    config: Any, prefix: int, branches: int, tokens: int, bytes_per_value: float = HALF
) -> tuple[float, float]:
    """(with the prefix kept once, with a copy a branch) for votes or a fan: `branches` of `tokens` after a common prefix."""
    alone = kv_cache_bytes(config, prefix + tokens, branches, bytes_per_value)
    saved = kv_cache_bytes(config, prefix, 1, bytes_per_value) * (branches - 1)
    return alone - saved, alone


def lora_parameters(config: Any, rank: int) -> int:
    """Of an adapter of `rank` on every linear layer inside the blocks: rank × (inputs + outputs) each (Hu et al. 2021)."""
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    return sum(rank * (m.in_features + m.out_features) for m in layers)


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one training step, by what they hold."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def training_memory(
    config: Any,
    tokens: int,
    trained: str = "full",
    rank: int = 16,
    bytes_per_value: float = SINGLE,
    checkpointing: bool = False,
    shards: int = 1,
    longest: int | None = None,
    logit_elements: int | None = None,
) -> TrainingMemory:
    """One step of AdamW over `tokens` tokens at once: `trained` is full, lora or 4bit (LoRA on a base in 4 bits).

    Trained weights, gradients and AdamW's two moments are float32; what they are multiplied with, and activations, have
    `bytes_per_value`. `shards` processes share weights, gradients and moments. `logit_elements` bounds how many logits
    are there at once (chunked losses); None: all of them. `longest` is the longest sequence, for attention's matrices.
    """
    shape, parameters = shape_of(config), count_parameters(config)
    if trained == "full":
        moved, frozen = float(parameters.total), 0.0
    else:
        moved = float(lora_parameters(config, rank))
        frozen = (
            parameters.total * bytes_per_value
            if trained == "lora"
            else _four_bit(parameters, bytes_per_value)
        )
    elements = tokens * shape.vocab if logit_elements is None else min(logit_elements, tokens * shape.vocab)
    return TrainingMemory(
        weights=(frozen + moved * SINGLE) / shards,
        gradients=moved * SINGLE / shards,
        optimizer=2 * moved * SINGLE / shards,
        activations=activation_bytes(
            shape, config, tokens, bytes_per_value, checkpointing, longest or tokens
        ),
        logits=2.0 * elements * SINGLE,
    )


def _four_bit(parameters: Parameters, bytes_per_value: float) -> float:
    quantised = parameters.total - parameters.embedding
    return quantised * NF4 + parameters.embedding * bytes_per_value


def activation_bytes(
    shape: Shape, config: Any, tokens: int, bytes_per_value: float, checkpointing: bool, longest: int
) -> float:
    """What the backward pass needs of the forward pass, with fused attention (no score matrices).

    Per token and layer: two norms' inputs and outputs (4 × hidden), queries, attention's output, keys and values, and
    the gate, the up projection, the activation and their product (4 × intermediate). With checkpointing each layer's
    input is kept, and one layer whole while it is computed again.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    inner = getattr(text, "intermediate_size", None) or 4 * shape.hidden
    of_layer = (
        4 * shape.hidden
        + shape.heads * (shape.key_dim + shape.value_dim)
        + shape.kv_heads * (shape.key_dim + shape.value_dim)
        + 4 * inner
    )
    if checkpointing:
        return tokens * bytes_per_value * (shape.layers * shape.hidden + of_layer)
    return tokens * bytes_per_value * shape.layers * of_layer
