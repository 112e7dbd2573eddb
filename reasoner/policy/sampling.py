"""Draw next tokens by place: counter-based noise and the inverse of the cumulative distribution.

Shape suffixes: B rows, V vocabulary, K blocks of it, C candidates in order of probability.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

# SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"), as signed 64-bit numbers
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)

BLOCK = 512  # a vocabulary of more than four blocks is searched by blocks first
NUM_CANDIDATES = 1024  # of a large vocabulary, so many are sorted before a whole row is
_LOWEST = -1e30  # stands for minus infinity, whose product with a probability of 0 would be NaN


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift; torch's own keeps the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def uniform_at(keys_B: torch.Tensor, positions_B: torch.Tensor) -> torch.Tensor:
    """One double in [0, 1) per row: a function of its key and token position alone. Inputs are int64."""
    if keys_B.device.type == "cpu":
        return torch.from_numpy(_uniform_at_cpu(keys_B.numpy(), positions_B.numpy()))
    x = keys_B + (positions_B + 1) * _GAMMA
    x = (x ^ _shift_right(x, 30)) * _MIX1
    x = (x ^ _shift_right(x, 27)) * _MIX2
    x = x ^ _shift_right(x, 31)
    return _shift_right(x, 11).double() * 2.0**-53


def _uniform_at_cpu(keys_B: np.ndarray, positions_B: np.ndarray) -> np.ndarray:
    """The same bits by numpy, whose small operations cost a quarter of torch's."""
    x = keys_B.view(np.uint64) + (positions_B + 1).view(np.uint64) * np.uint64(_GAMMA % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX1 % 2**64)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX2 % 2**64)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


class Drawn(NamedTuple):
    """Tokens with their log-probabilities under the sampling and the full distribution, and its entropy in nats."""

    token_B: torch.Tensor
    logprob_B: torch.Tensor
    logprob_full_B: torch.Tensor
    entropy_B: torch.Tensor


def draw(
    logits_BV: torch.Tensor,
    noise_B: torch.Tensor,
    temperature_B: torch.Tensor | None = None,
    top_k_B: torch.Tensor | None = None,
    top_p_B: torch.Tensor | None = None,
    min_p_B: torch.Tensor | None = None,
) -> Drawn:
    """Draw one token per row; None leaves a rule out for all rows.

    Temperature 0 takes the argmax (with a sampling log-probability of 0). Top-k, then top-p, then min-p (tokens
    with less than that share of the most likely one's probability go; Nguyen et al. 2024) apply after temperature.
    """
    logits_BV = logits_BV.float()
    p_BV = torch.softmax(logits_BV, -1)
    if temperature_B is None and top_k_B is None and top_p_B is None and min_p_B is None:
        token_B = _pick(p_BV, noise_B)
        logprob_B = logprob_full_B = _at(p_BV, token_B).log()
        log_z_B = _at(logits_BV, token_B) - logprob_B
    else:
        first_B = logits_BV.argmax(-1)
        log_z_B = _at(logits_BV, first_B) - _at(p_BV, first_B).log()
        scaled_BV = logits_BV
        if temperature_B is not None:
            scaled_BV = logits_BV / torch.where(temperature_B == 0, 1.0, temperature_B)[:, None]
        sampled_BV = torch.softmax(_truncated(scaled_BV, top_k_B, top_p_B, min_p_B), -1)
        token_B = _pick(sampled_BV, noise_B)
        if temperature_B is not None:
            token_B = torch.where(temperature_B == 0, first_B, token_B)
        logprob_B = _at(sampled_BV, token_B).log()
        if temperature_B is not None:
            logprob_B = logprob_B.masked_fill(temperature_B == 0, 0.0)
        logprob_full_B = _at(logits_BV, token_B) - log_z_B
    # -Σ p log p = log Z - Σ p · logit
    mean_B = torch.linalg.vecdot(p_BV, logits_BV)
    if logits_BV.device.type != "cpu" or bool(mean_B.isnan().any()):
        mean_B = torch.linalg.vecdot(p_BV, logits_BV.clamp(min=_LOWEST))
    return Drawn(token_B, logprob_B, logprob_full_B, log_z_B - mean_B)


def _at(values_BV: torch.Tensor, token_B: torch.Tensor) -> torch.Tensor:
    return values_BV.gather(-1, token_B[:, None])[:, 0]


def _pick(weight_BV: torch.Tensor, noise_B: torch.Tensor) -> torch.Tensor:
    """Per row the token at which the cumulative weight passes noise · total; tokens of weight 0 never.

    Sums are in float64, so that the tail of a large vocabulary keeps its share of the noise; there only the
    block that the noise falls into is summed token by token.
    """
    vocab_size = weight_BV.shape[1]
    if vocab_size <= 4 * BLOCK:
        return _invert(weight_BV, noise_B)
    whole = vocab_size // BLOCK * BLOCK
    blocks_BK = weight_BV[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1)
    if whole < vocab_size:
        blocks_BK = torch.cat((blocks_BK, weight_BV[:, whole:].sum(-1, keepdim=True)), 1)
    cdf_BK = blocks_BK.cumsum(-1, dtype=torch.float64)
    target_B1 = (noise_B.double() * cdf_BK[:, -1])[:, None]
    block_B1 = torch.searchsorted(cdf_BK, target_B1, right=True).clamp_(max=cdf_BK.shape[1] - 1)
    size_B1 = blocks_BK.double().gather(1, block_B1)
    within_B1 = 1 - (cdf_BK.gather(1, block_B1) - target_B1) / size_B1
    token_BV = block_B1 * BLOCK + torch.arange(BLOCK, device=weight_BV.device)
    inner_BV = weight_BV.gather(1, token_BV.clamp(max=vocab_size - 1)).masked_fill(
        token_BV >= vocab_size, 0.0
    )
    inner_B = _invert(inner_BV, within_B1[:, 0].clamp_(0.0, 1 - 2.0**-53))
    return (block_B1[:, 0] * BLOCK + inner_B).clamp_(max=vocab_size - 1)


def _invert(weight_BV: torch.Tensor, noise_B: torch.Tensor) -> torch.Tensor:
    cdf_BV = weight_BV.cumsum(-1, dtype=torch.float64)
    target_B1 = (noise_B.double() * cdf_BV[:, -1])[:, None]
    return torch.searchsorted(cdf_BV, target_B1, right=True).clamp_(max=weight_BV.shape[-1] - 1)[:, 0]


def _truncated(
    scaled_BV: torch.Tensor,
    top_k_B: torch.Tensor | None,
    top_p_B: torch.Tensor | None,
    min_p_B: torch.Tensor | None,
) -> torch.Tensor:
    """The scaled logits with minus infinity where top-k, top-p or min-p leave a token out."""
    if top_k_B is None and top_p_B is None and min_p_B is None:
        return scaled_BV
    scaled_BV = scaled_BV - scaled_BV.amax(-1, keepdim=True)
    keep_BV = None
    if top_k_B is not None or top_p_B is not None:
        rows = scaled_BV.shape[:1]
        top_k_B = top_k_B if top_k_B is not None else scaled_BV.new_zeros(rows, dtype=torch.long)
        top_p_B = top_p_B if top_p_B is not None else scaled_BV.new_ones(rows)
        keep_BV = _likeliest(scaled_BV, top_k_B, top_p_B)
    if min_p_B is not None:
        above_BV = scaled_BV >= min_p_B.log()[:, None]
        keep_BV = above_BV if keep_BV is None else keep_BV & above_BV
    return scaled_BV if keep_BV is None else scaled_BV.masked_fill(~keep_BV, float("-inf"))


def _likeliest(scaled_BV: torch.Tensor, top_k_B: torch.Tensor, top_p_B: torch.Tensor) -> torch.Tensor:
    """True for the k likeliest tokens (all for k = 0) and, of these, the smallest set with a share p of their mass.

    Which rows are sorted whole depends on the row alone, so company changes no draw.
    """
    vocab_size = scaled_BV.shape[1]
    free_B = (top_k_B <= 0) & (top_p_B >= 1)
    if vocab_size <= 2 * NUM_CANDIDATES:
        return _in_order(scaled_BV, *_sorted(scaled_BV), top_k_B, top_p_B) | free_B[:, None]
    ordered_BC, order_BC = scaled_BV.topk(NUM_CANDIDATES, -1)
    by_k_B = (top_k_B > 0) & (top_k_B <= NUM_CANDIDATES)
    share_B = ordered_BC.exp().sum(-1) / scaled_BV.exp().sum(-1)
    narrow_B = by_k_B | ((top_k_B <= 0) & (share_B > top_p_B + 1e-4))
    keep_BV = _in_order(scaled_BV, ordered_BC, order_BC, top_k_B, top_p_B) | free_B[:, None]
    wide = (~narrow_B & ~free_B).nonzero()[:, 0]
    if len(wide):
        rows = scaled_BV[wide]
        keep_BV[wide] = _in_order(rows, *_sorted(rows), top_k_B[wide], top_p_B[wide])
    return keep_BV


def _sorted(scaled_BV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    ordered_BV, order_BV = scaled_BV.sort(-1, descending=True)
    return ordered_BV, order_BV


def _in_order(scaled_BV, ordered_BC, order_BC, top_k_B, top_p_B) -> torch.Tensor:
    """`_likeliest`, given the row's likeliest tokens in order; right where the kept ones are among these."""
    rank_C = torch.arange(ordered_BC.shape[1], device=ordered_BC.device)
    by_k_BC = (rank_C < top_k_B[:, None]) | (top_k_B[:, None] <= 0)
    kept_BC = ordered_BC.exp() * by_k_BC
    mass_B = torch.where(top_k_B > 0, kept_BC.sum(-1), scaled_BV.exp().sum(-1))
    before_BC = kept_BC.cumsum(-1) - kept_BC
    keep_BC = by_k_BC & (before_BC < (top_p_B * mass_B)[:, None])
    keep_BC[:, 0] = True
    return torch.zeros_like(scaled_BV, dtype=torch.bool).scatter_(-1, order_BC, keep_BC)
