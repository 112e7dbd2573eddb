"""Draw next tokens by place: counter-based noise and the inverse of the cumulative distribution.

Shape suffixes: B rows, V vocabulary, K blocks of it, C candidates in order of probability.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

# SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"), as signed 64-bit numbers
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)
_GAMMA_U64, _MIX1_U64, _MIX2_U64 = (np.uint64(x + (1 << 64)) for x in (_GAMMA, _MIX1, _MIX2))

BLOCK = 512  # a vocabulary of more than four blocks is searched by blocks first
LARGE = 1 << 14  # from this vocabulary on, a CPU draws a few rows at a time, of at most CACHED logits
CACHED = 1 << 18  # 1 MiB in float32, which stays in the processor's cache from one pass to the next
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
    x = (positions_B + 1).view(np.uint64)
    x *= _GAMMA_U64
    x += keys_B.view(np.uint64)
    x ^= x >> np.uint64(30)
    x *= _MIX1_U64
    x ^= x >> np.uint64(27)
    x *= _MIX2_U64
    x ^= x >> np.uint64(31)
    x >>= np.uint64(11)
    return x * 2.0**-53


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
    rules = (temperature_B, top_k_B, top_p_B, min_p_B)
    num_rows, vocab_size = logits_BV.shape
    if logits_BV.device.type == "cpu" and vocab_size >= LARGE:
        size = max(torch.get_num_threads(), CACHED // vocab_size)
        if size < num_rows:
            parts = [
                _draw(logits_BV[rows], noise_B[rows], *(r if r is None else r[rows] for r in rules))
                for rows in (slice(i, i + size) for i in range(0, num_rows, size))
            ]
            return Drawn(*map(torch.cat, zip(*parts, strict=True)))
    return _draw(logits_BV, noise_B, *rules)


def _draw(logits_BV, noise_B, temperature_B, top_k_B, top_p_B, min_p_B) -> Drawn:
    logits_BV = logits_BV.float()
    p_BV = torch.softmax(logits_BV, -1)
    noise_B1 = noise_B[:, None]
    if temperature_B is None and top_k_B is None and top_p_B is None and min_p_B is None:
        token_B1 = _pick(p_BV, noise_B1)
        logprob_B1 = logprob_full_B1 = p_BV.gather(-1, token_B1).log_()
        log_z_B1 = logits_BV.gather(-1, token_B1).sub_(logprob_B1)
    else:
        first_B1 = logits_BV.argmax(-1, keepdim=True)
        log_z_B1 = logits_BV.gather(-1, first_B1) - p_BV.gather(-1, first_B1).log_()
        scaled_BV = logits_BV
        greedy_B1 = None
        if temperature_B is not None:
            greedy_B1 = (temperature_B == 0)[:, None]
            scaled_BV = logits_BV / temperature_B[:, None].masked_fill(greedy_B1, 1.0)
        sampled_BV = torch.softmax(_truncated(scaled_BV, top_k_B, top_p_B, min_p_B), -1)
        token_B1 = _pick(sampled_BV, noise_B1)
        if greedy_B1 is not None:
            token_B1 = torch.where(greedy_B1, first_B1, token_B1)
        logprob_B1 = sampled_BV.gather(-1, token_B1).log_()
        if greedy_B1 is not None:
            logprob_B1.masked_fill_(greedy_B1, 0.0)
        logprob_full_B1 = logits_BV.gather(-1, token_B1) - log_z_B1
    entropy_B = log_z_B1[:, 0] - _mean(p_BV, logits_BV)  # -Σ p log p = log Z - Σ p · logit
    return Drawn(token_B1[:, 0], logprob_B1[:, 0], logprob_full_B1[:, 0], entropy_B)


def _mean(p_BV: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
    """Σ p · logit per row, in which a logit of minus infinity counts nothing."""
    if logits_BV.device.type == "cpu":
        if logits_BV.shape[1] >= LARGE:  # a product of whole rows would be written out before it is summed
            mean_B = torch.stack([p.dot(logits) for p, logits in zip(p_BV, logits_BV, strict=True)])
        else:
            mean_B = torch.linalg.vecdot(p_BV, logits_BV)
        if not math.isnan(mean_B.sum()):
            return mean_B
    return torch.linalg.vecdot(p_BV, logits_BV.clamp(min=_LOWEST))


def _pick(weight_BV: torch.Tensor, noise_B1: torch.Tensor) -> torch.Tensor:
    """Per row the token at which the cumulative weight passes noise · total; tokens of weight 0 never. [B, 1]

    Sums are in float64, so that the tail of a large vocabulary keeps its share of the noise; there only the
    block that the noise falls into is summed token by token.
    """
    vocab_size = weight_BV.shape[1]
    if vocab_size <= 4 * BLOCK:
        return _invert(weight_BV, noise_B1)
    whole = vocab_size // BLOCK * BLOCK
    blocks_BK = weight_BV[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1)
    if whole < vocab_size:
        blocks_BK = torch.cat((blocks_BK, weight_BV[:, whole:].sum(-1, keepdim=True)), 1)
    cdf_BK = blocks_BK.cumsum(-1, dtype=torch.float64)
    target_B1 = cdf_BK[:, -1:] * noise_B1
    block_B1 = torch.searchsorted(cdf_BK, target_B1, right=True).clamp_(max=cdf_BK.shape[1] - 1)
    size_B1 = blocks_BK.double().gather(1, block_B1)
    within_B1 = 1 - (cdf_BK.gather(1, block_B1) - target_B1) / size_B1
    token_BV = block_B1 * BLOCK + torch.arange(BLOCK, device=weight_BV.device)
    inner_BV = weight_BV.gather(1, token_BV.clamp(max=vocab_size - 1)).masked_fill(
        token_BV >= vocab_size, 0.0
    )
    inner_B1 = _invert(inner_BV, within_B1.clamp_(0.0, 1 - 2.0**-53))
    return (block_B1 * BLOCK + inner_B1).clamp_(max=vocab_size - 1)


def _invert(weight_BV: torch.Tensor, noise_B1: torch.Tensor) -> torch.Tensor:
    cdf_BV = weight_BV.cumsum(-1, dtype=torch.float64)
    target_B1 = cdf_BV[:, -1:] * noise_B1
    return torch.searchsorted(cdf_BV, target_B1, right=True).clamp_(max=weight_BV.shape[-1] - 1)


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
