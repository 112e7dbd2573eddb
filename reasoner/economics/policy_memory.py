"""Bytes of on-policy training: a drawing engine beside the models of PPO, as copies or as adapters on one base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reasoner.economics.memory import (
    SINGLE,
    activation_bytes,
    kv_cache_bytes,
    logit_bytes,
    step_scratch,
    trained_and_frozen,
)
from reasoner.economics.shape import count_parameters, inner_linears, shape_of
from reasoner.engine.decoder import ARCHITECTURES, MAX_BYTES
from reasoner.engine.kv import PARTS
from reasoner.engine.outputs import OUTPUT_BYTES
from reasoner.policy.logprobs import CHUNK_ELEMENTS

PREFIX_BYTES = 1 << 30  # the most that the local engine keeps of finished sequences


@dataclass(frozen=True)
class EngineMemory:
    """Bytes of the engine in this process beside the model's own weights."""

    slots: float  # keys and values of the sequences under way, and what they have drawn
    prefixes: float  # and of finished ones, kept for those that go on from them
    copies: float  # of weights, laid out for decoding
    logits: float  # of one step, with what sampling makes of them
    twice: float = 0.0  # share of the slots that is there twice while they grow

    @property
    def total(self) -> float:
        """The most at once: as the slots grow, or as a token is drawn."""
        return self.slots + self.prefixes + self.copies + max(self.logits, self.twice * self.slots)


def engine_memory(
    config: Any,
    slots: int,
    context: int,
    bytes_per_value: float,
    finished_tokens: float,
    lora: bool = False,
) -> EngineMemory:
    """Of `slots` sequences, the longest of `context` tokens; `finished_tokens` are those of distinct prefixes, kept up to 1 GiB.

    All take as much as the longest one, in every layer, also one with a window.
    """
    shape = shape_of(config)
    each = shape.layers * shape.kv_heads * (shape.key_dim + shape.value_dim) * bytes_per_value
    return EngineMemory(
        slots=slots * context * (each + OUTPUT_BYTES),
        prefixes=min(finished_tokens * each, PREFIX_BYTES),
        copies=decoding_copies(config, bytes_per_value, lora),
        logits=4.0 * slots * shape.vocab * SINGLE,
        twice=1 / min(PARTS, shape.layers),
    )


def decoding_copies(config: Any, bytes_per_value: float, lora: bool) -> float:
    """Weights that the engine lays out anew to decode faster: of plain layers those that read the same input, with a
    float32 adapter all, merged. None of other architectures, and none past 1 GiB."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    if text.model_type not in ARCHITECTURES or (lora and bytes_per_value != SINGLE):
        return 0.0
    sizes = {n: m.weight.numel() * bytes_per_value for n, m in inner_linears(config).items()}
    if sum(sizes.values()) > MAX_BYTES:
        return 0.0
    return sum(size for n, size in sizes.items() if lora or not n.endswith(("o_proj", "down_proj")))


@dataclass(frozen=True)
class PolicyMemory:
    """Bytes of a round of PPO, by what they hold; the engine gives its own back before the update."""

    weights: float  # of all models
    gradients: float
    optimizer: float
    activations: float
    recomputed: float
    logits: float
    engine: float
    scratch: float

    @property
    def total(self) -> float:
        """The most at once: while the engine draws, as a backward pass begins, as it ends, or as the optimizers step."""
        begins = self.activations + max(self.logits, self.recomputed)
        ends = self.gradients + max(self.scratch, self.recomputed)
        return self.weights + self.optimizer + max(self.engine, begins, ends)


def policy_memory(
    config: Any,
    tokens: int,
    longest: int,
    engine: EngineMemory,
    trained: str = "full",
    rank: int = 16,
    critic: bool = True,
    frozen_models: Sequence[str] = ("ref", "prm", "orm"),
    bytes_per_value: float = SINGLE,
    checkpointing: bool = False,
    shards: int = 1,
    micro_batches: int = 1,
    on_gpu: bool = False,
    sampled: int | None = None,
    implicit: bool = False,
) -> PolicyMemory:
    """`tokens` packed positions at once, none of whose paths is longer than `longest`, of policy, critic and frozen models.

    `sampled` of the positions have a log-probability; None: all.

    With an adapter (`trained` lora or 4bit) all are adapters on one base, the reference that base alone; else each is a
    copy. The critic's backward pass follows the policy's, whose gradients wait; with several micro-batches both wait. An
    `implicit` PRM learns once these are gone.
    """
    shape, parameters = shape_of(config), count_parameters(config)
    moved, frozen = trained_and_frozen(config, trained, rank, bytes_per_value)
    others = [name for name in frozen_models if trained == "full" or name != "ref"]
    num_trained = 1 + critic
    if trained == "full":
        weights = (num_trained + implicit) * moved * SINGLE + len(others) * parameters.total * bytes_per_value
    else:
        weights = frozen + (num_trained + implicit + len(others)) * moved * SINGLE
    kept, recomputed = activation_bytes(
        shape, config, tokens, bytes_per_value, checkpointing, longest, trained == "full"
    )
    logits = logit_bytes(shape, tokens if sampled is None else sampled, CHUNK_ELEMENTS)
    waiting = (num_trained if micro_batches > 1 else 0) * moved * SINGLE / shards
    of_critic = moved * SINGLE / shards if critic and micro_batches == 1 else 0.0
    return PolicyMemory(
        weights=weights / shards,
        gradients=num_trained * moved * SINGLE / shards,
        optimizer=(num_trained + implicit) * 2 * moved * SINGLE / shards,
        activations=kept + waiting,
        recomputed=recomputed,
        logits=max(logits, of_critic),
        engine=engine.total,
        scratch=step_scratch(parameters, moved, trained, on_gpu) / shards,
    )


def inference_memory(config: Any, batch: int, tokens: int, weight_bytes: float, kv_bytes: float) -> float:
    """Weights and the keys and values of `batch` sequences of `tokens` each, by servers that keep windows short."""
    return count_parameters(config).total * weight_bytes + kv_cache_bytes(config, tokens, batch, kv_bytes)
