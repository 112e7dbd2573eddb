"""Operations and seconds: what a token costs, how fast a machine can be at best, how many users it serves.

Operations count a multiplication and an addition as two, as torch's FlopCounterMode does; norms, rotations and
softmax are left out, like there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reasoner.economics.hardware import Hardware
from reasoner.economics.memory import HALF, kv_cache_bytes
from reasoner.economics.shape import Parameters, count_parameters, shape_of


def attention_flops(config: Any, tokens: int) -> float:
    """Of one new token that attends to `tokens`: 4 × heads × layers × head size × tokens; a window bounds the tokens."""
    shape = shape_of(config)
    seen = sum(min(tokens, window) if window else tokens for window in shape.windows)
    return 2.0 * shape.heads * (shape.key_dim + shape.value_dim) * seen


def weight_flops(parameters: Parameters) -> float:
    """Of one token: 2 for each parameter of the products that it goes through (Kaplan et al. 2020, section 2.1)."""
    return 2.0 * parameters.active


def forward_flops(config: Any, tokens: int, batch: int = 1, causal: bool = False) -> float:
    """Of whole sequences in one pass.

    An eager attention computes the whole square of a sequence, what is masked and what a window leaves out as well.
    `causal` counts only what is attended to, as fused kernels do: of a layer with a window no more than that many tokens.
    """
    shape = shape_of(config)
    if causal:
        pairs = sum(_attended(tokens, window) for window in shape.windows)
    else:
        pairs = shape.layers * tokens**2
    attention = 2.0 * shape.heads * (shape.key_dim + shape.value_dim) * pairs
    return batch * (tokens * weight_flops(count_parameters(config)) + attention)


def _attended(tokens: int, window: int | None) -> int:
    """Pairs of a token and one that it attends to, itself with them."""
    whole = min(tokens, window or tokens)
    return whole * (whole + 1) // 2 + (tokens - whole) * whole


def training_flops(config: Any, tokens: int, batch: int = 1, causal: bool = False) -> float:
    """Forward and backward: the backward pass takes twice the forward pass."""
    return 3.0 * forward_flops(config, tokens, batch, causal)


@dataclass(frozen=True)
class DecodeStep:
    """One token for each of a batch of sequences on one machine, at best."""

    memory_seconds: float  # to read weights, keys and values
    compute_seconds: float
    batch: int

    @property
    def seconds(self) -> float:
        """The larger of the two: a roofline (Williams, Waterman, Patterson 2009)."""
        return max(self.memory_seconds, self.compute_seconds)

    @property
    def per_user(self) -> float:
        """Tokens per second of one sequence."""
        return 1.0 / self.seconds

    @property
    def tokens_per_second(self) -> float:
        return self.batch / self.seconds


def decode_step(
    config: Any,
    hardware: Hardware,
    batch: int,
    tokens: float,
    weight_bytes: float = HALF,
    kv_bytes: float = HALF,
    parameters: Parameters | None = None,
) -> DecodeStep:
    """At `tokens` tokens of context a sequence; bytes are per parameter and per value of the cache.

    A batch in which each sequence chooses other experts reads more of these; the share that is read is the chance
    that one of the batch chose them, taken as independent.
    """
    parameters = parameters or count_parameters(config)
    unread = (1 - parameters.active_share) ** batch
    read = parameters.dense + parameters.experts * (1 - unread)
    cache = kv_cache_bytes(config, round(tokens), batch, kv_bytes)
    moved = read * weight_bytes + cache
    work = batch * (weight_flops(parameters) + attention_flops(config, round(tokens)))
    return DecodeStep(moved / hardware.bytes_per_second, work / hardware.flops_per_second, batch)


def largest_batch(
    config: Any,
    hardware: Hardware,
    tokens: float,
    per_user: float,
    weight_bytes: float = HALF,
    kv_bytes: float = HALF,
) -> int:
    """The most sequences at `per_user` tokens a second each that fit the memory; 0 where not even one does."""
    parameters = count_parameters(config)
    room = hardware.memory_bytes - parameters.total * weight_bytes
    of_one = kv_cache_bytes(config, round(tokens), 1, kv_bytes)
    fits = int(room // of_one) if room > 0 else 0

    def is_fast(batch: int) -> bool:
        return (
            decode_step(config, hardware, batch, tokens, weight_bytes, kv_bytes, parameters).per_user
            >= per_user
        )

    low, high = 0, fits
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if is_fast(middle) else (low, middle - 1)
    return low


def longest_sequence(
    config: Any, memory_bytes: float, weight_bytes: float = HALF, kv_bytes: float = HALF
) -> int:
    """Tokens whose keys and values fill what the weights leave; by doubling and bisection, since windows saturate."""
    room = memory_bytes - count_parameters(config).total * weight_bytes
    if room <= 0 or kv_cache_bytes(config, 1, 1, kv_bytes) > room:
        return 0
    high = 1
    while high < 1 << 40 and kv_cache_bytes(config, high, 1, kv_bytes) <= room:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if kv_cache_bytes(config, middle, 1, kv_bytes) <= room else (low, middle)
    return low


def dollars_per_million(step: DecodeStep, hardware: Hardware) -> float:
    """Price of a million decoded tokens at this step's pace."""
    return 1e6 / step.tokens_per_second * hardware.dollars_per_hour / 3600


def verifier_cores(checks_per_second: float, seconds_per_check: float) -> float:
    """CPU cores that keep up with so many verdicts a second."""
    return checks_per_second * seconds_per_check


def chinchilla_loss(parameters: float, tokens: float) -> float:
    """Loss of pre-training by size and data: 1.69 + 406.4 / N^0.34 + 410.7 / D^0.28 (Hoffmann et al. 2022, section D.3)."""
    return 1.69 + 406.4 / parameters**0.34 + 410.7 / tokens**0.28


@dataclass(frozen=True)
class Life:
    """A model size with the tokens that bring it to a loss, and the operations of its life."""

    parameters: float
    train_tokens: float
    training_flops: float
    inference_flops: float

    @property
    def total(self) -> float:
        return self.training_flops + self.inference_flops


def life(parameters: float, loss: float, served_tokens: float) -> Life | None:
    """Training to `loss` and serving `served_tokens`, by the fit above; None where this size never gets there."""
    rest = loss - 1.69 - 406.4 / parameters**0.34
    if rest <= 0:
        return None
    tokens = (410.7 / rest) ** (1 / 0.28)
    return Life(parameters, tokens, 6 * parameters * tokens, 2 * parameters * served_tokens)


def cheapest_size(loss: float, served_tokens: float, sizes: list[float]) -> Life:
    """Of the sizes that reach `loss`, the one whose training and serving together take the fewest operations.

    The more is served, the smaller it is: a small model trained for longer (Sardana et al. 2023).
    """
    lives = [found for size in sizes if (found := life(size, loss, served_tokens)) is not None]
    if not lives:
        raise ValueError(f"no size up to {max(sizes):.3g} reaches a loss of {loss}; expected larger sizes")
    return min(lives, key=lambda one: one.total)
