"""Bytes: of keys and values, of weights, and of what training adds to them. Sizes in bytes, lengths in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reasoner.economics.shape import (
    Parameters,
    Shape,
    count_parameters,
    feed_forward,
    inner_linears,
    norm_values,
    shape_of,
)

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


def lora_parameters(config: Any, rank: int, targets: str | Sequence[str] = "all-linear") -> int:
    """Of an adapter of `rank` on the linear layers inside the blocks: rank × (inputs + outputs) each (Hu et al. 2021).

    `targets` are the ends of their names, as PEFT takes them; 0 where none has such a name.
    """
    layers = inner_linears(config)
    if targets != "all-linear":
        names = [targets] if isinstance(targets, str) else targets
        layers = {n: m for n, m in layers.items() if any(n == t or n.endswith(f".{t}") for t in names)}
    return sum(rank * (m.in_features + m.out_features) for m in layers.values())


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one training step, by what they hold."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    recomputed: float  # of one layer, where layers are computed again
    logits: float
    scratch: float  # the optimizer's own, while it steps
    gathered: float = 0.0  # of weights that are cut over processes, what is whole for a moment

    @property
    def total(self) -> float:
        """The most at once: as the backward pass begins, as it ends, or as the optimizer steps."""
        begins = self.activations + max(self.logits, self.recomputed) + self.gathered
        ends = self.gradients + max(self.scratch, self.recomputed + self.gathered)
        return self.weights + self.optimizer + max(begins, ends)


def training_memory(
    config: Any,
    tokens: int,
    trained: str = "full",
    rank: int = 16,
    bytes_per_value: float = SINGLE,
    checkpointing: bool = False,
    shards: int = 1,
    longest: int = 0,
    logit_elements: int | None = None,
    on_gpu: bool = False,
) -> TrainingMemory:
    """One step of AdamW over `tokens` tokens at once: `trained` is full, lora or 4bit (LoRA on a base in 4 bits).

    Trained weights, gradients and AdamW's two moments are float32; what they are multiplied with, and activations, have
    `bytes_per_value`. `shards` processes share weights, gradients and moments. `logit_elements` bounds how many logits
    are there at once (chunked losses); None: all of them. `longest` is the longest sequence where attention is given a
    mask, as packed trees are; 0 where it needs none.
    """
    shape, parameters = shape_of(config), count_parameters(config)
    moved, frozen = trained_and_frozen(config, trained, rank, bytes_per_value)
    kept, recomputed = activation_bytes(
        shape, config, tokens, bytes_per_value, checkpointing, longest, trained == "full"
    )
    return TrainingMemory(
        weights=(frozen + moved * SINGLE) / shards,
        gradients=moved * SINGLE / shards,
        optimizer=2 * moved * SINGLE / shards,
        activations=kept,
        recomputed=recomputed,
        logits=logit_bytes(shape, tokens, logit_elements),
        scratch=step_scratch(parameters, moved, trained, on_gpu) / shards,
        gathered=gathered_bytes(config, parameters, bytes_per_value) if shards > 1 else 0.0,
    )


def gathered_bytes(config: Any, parameters: Parameters, bytes_per_value: float) -> float:
    """Of a model that is cut layer by layer (FSDP, Zhao et al. 2023): one layer, and what stands outside the layers."""
    inside = sum(m.weight.numel() for m in inner_linears(config).values())
    layers = shape_of(config).layers
    return (parameters.total - inside + inside / layers) * bytes_per_value


def trained_and_frozen(
    config: Any, trained: str, rank: int, bytes_per_value: float, targets: str | Sequence[str] = "all-linear"
) -> tuple[float, float]:
    """(parameters that are trained, bytes of those that are not) of one model: full, lora or 4bit."""
    parameters = count_parameters(config)
    if trained == "full":
        return float(parameters.total), 0.0
    frozen = parameters.total * bytes_per_value
    if trained == "4bit":
        frozen = _four_bit(config, parameters, bytes_per_value)
    return float(lora_parameters(config, rank, targets)), frozen


def _four_bit(config: Any, parameters: Parameters, bytes_per_value: float) -> float:
    """In 4 bits are the linear layers inside the blocks. Embeddings, an output layer also where it is tied to them, norms, and
    experts that are one tensor together stay as they are (bitsandbytes through transformers)."""
    quantised = sum(m.weight.numel() for m in inner_linears(config).values())
    return quantised * NF4 + (parameters.total - quantised) * bytes_per_value


def logit_bytes(shape: Shape, tokens: int, bound: int | None = None) -> float:
    """As the backward pass begins: log-probabilities, their gradient and that of the logits, in float32."""
    elements = tokens * shape.vocab
    return 3.0 * SINGLE * (elements if bound is None else min(bound, elements))


TILE_TOKENS, TILE_ENTRIES = 4096, 32768  # of a tile of logits in TRL 1.16 (trl/kernels/chunked_logprob.py)


def tiled_logit_bytes(
    shape: Shape, tokens: int, bytes_per_value: float, trains_head: bool, on_gpu: bool
) -> float:
    """Of TRL's losses, whose logits come in tiles of 4,096 tokens and 32,768 entries of the vocabulary, or as wide without them.

    As a tile's gradient is made, a GPU's kernel needs nothing beside it; elsewhere there are seven more of its size in
    float32, and a mask. The gradients of hidden states and output layer are summed up in float32.
    """
    rows = min(tokens, TILE_TOKENS)
    beside = 0.0 if on_gpu else (7 * SINGLE + 1.0) * rows * min(shape.vocab, TILE_ENTRIES)
    sums = SINGLE * shape.hidden * (tokens + (shape.vocab if trains_head else 0))
    return rows * TILE_ENTRIES * bytes_per_value + beside + sums


def step_scratch(parameters: Parameters, moved: float, trained: str, on_gpu: bool) -> float:
    """What torch's AdamW holds beside its moments while it steps.

    On a CPU it takes one weight after the other, with two numbers in the making; on a GPU the roots of all second
    moments are there at once.
    """
    largest = parameters.largest if trained == "full" else 0
    return SINGLE * (moved if on_gpu else 2.0 * largest)


def activation_bytes(
    shape: Shape,
    config: Any,
    tokens: int,
    bytes_per_value: float,
    checkpointing: bool,
    longest: int = 0,
    trains_norms: bool = True,
) -> tuple[float, float]:
    """(what the backward pass needs of the forward pass, what of a layer is there while it is computed again), with fused
    attention (no score matrices).

    Per token and layer: of each norm its input in float32 and its output, and where its weight is trained the scaled input;
    queries, attention's output, keys and values; and what the feed-forward part keeps (shape.feed_forward), which of a
    mixture follows the experts that a token goes through. A mask (`longest`) is kept by every layer, and with one torch's
    attention wants keys and values of every head. With checkpointing each layer's input is kept, and one layer at a time is
    computed again: the largest.
    """
    norm = norm_values(config) * (SINGLE + bytes_per_value * (2 if trains_norms else 1))
    kept_heads = shape.heads if longest else shape.kv_heads
    values = (shape.heads + kept_heads) * (shape.key_dim + shape.value_dim) + longest
    of_layers = [norm + (values + inner) * bytes_per_value for inner in feed_forward(config)]
    if checkpointing:
        return tokens * shape.layers * shape.hidden * bytes_per_value, tokens * max(of_layers)
    return tokens * sum(of_layers), 0.0
