"""Draw next tokens by place: counter-based noise and the inverse of the cumulative distribution.

Shape suffixes: B rows, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

# SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"), as signed 64-bit numbers
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift; torch's own keeps the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def uniform_at(keys_B: torch.Tensor, positions_B: torch.Tensor) -> torch.Tensor:
    """One double in [0, 1) per row: a function of its key and token position alone. Inputs are int64."""
    x = keys_B + (positions_B + 1) * _GAMMA
    x = (x ^ _shift_right(x, 30)) * _MIX1
    x = (x ^ _shift_right(x, 27)) * _MIX2
    x = x ^ _shift_right(x, 31)
    return _shift_right(x, 11).double() * 2.0**-53


class Drawn(NamedTuple):
    """Tokens with their log-probabilities under the sampling and the full distribution, and its entropy in nats."""

    token_B: torch.Tensor
    logprob_B: torch.Tensor
    logprob_full_B: torch.Tensor
    entropy_B: torch.Tensor


def draw(
    logits_BV: torch.Tensor,
    noise_B: torch.Tensor,
    temperature_B: torch.Tensor,
    top_k_B: torch.Tensor | None = None,
    top_p_B: torch.Tensor | None = None,
) -> Drawn:
    """Draw one token per row; rows with temperature 0 take the argmax (and a sampling log-probability of 0)."""
    logits_BV = logits_BV.float()
    full_BV = torch.log_softmax(logits_BV, -1)
    p_full_BV = full_BV.exp()
    entropy_B = -(p_full_BV * full_BV).sum(-1)
    greedy_B = temperature_B == 0
    plain = top_k_B is None and top_p_B is None and bool((temperature_B == 1).all())
    if plain:
        sampled_BV, p_BV = full_BV, p_full_BV
    else:
        scale_B = torch.where(greedy_B, torch.ones_like(temperature_B), temperature_B)
        sampled_BV = _truncate(logits_BV / scale_B[:, None], top_k_B, top_p_B)
        p_BV = sampled_BV.exp()
    # float64 sums, so that the tail of a large vocabulary keeps its share of the noise
    cdf_BV = p_BV.cumsum(-1, dtype=torch.float64)
    target_B1 = (noise_B.double() * cdf_BV[:, -1])[:, None]
    token_B = torch.searchsorted(cdf_BV, target_B1, right=True).clamp_(max=p_BV.shape[-1] - 1)[:, 0]
    if bool(greedy_B.any()):
        token_B = torch.where(greedy_B, logits_BV.argmax(-1), token_B)
    logprob_B = sampled_BV.gather(-1, token_B[:, None])[:, 0]
    logprob_B = torch.where(greedy_B, torch.zeros_like(logprob_B), logprob_B)
    return Drawn(token_B, logprob_B, full_BV.gather(-1, token_B[:, None])[:, 0], entropy_B)


def _truncate(
    logits_BV: torch.Tensor, top_k_B: torch.Tensor | None, top_p_B: torch.Tensor | None
) -> torch.Tensor:
    """Log-probabilities after top-k, then top-p (the smallest set with at least that mass), renormalised."""
    logprobs_BV = torch.log_softmax(logits_BV, -1)
    if top_k_B is None and top_p_B is None:
        return logprobs_BV
    ordered_BV, order_BV = logprobs_BV.sort(-1, descending=True)
    rank_V = torch.arange(ordered_BV.shape[-1], device=ordered_BV.device)
    keep_BV = torch.ones_like(ordered_BV, dtype=torch.bool)
    if top_k_B is not None:
        keep_BV &= (rank_V[None] < top_k_B[:, None]) | (top_k_B[:, None] <= 0)
    if top_p_B is not None:
        kept_BV = torch.where(keep_BV, ordered_BV.exp(), 0.0)
        mass_before_BV = kept_BV.cumsum(-1) - kept_BV
        keep_BV &= mass_before_BV < top_p_B[:, None] * kept_BV.sum(-1, keepdim=True)
        keep_BV[:, 0] = True
    keep_BV = torch.zeros_like(keep_BV).scatter(-1, order_BV, keep_BV)
    return torch.log_softmax(logprobs_BV.masked_fill(~keep_BV, float("-inf")), -1)
