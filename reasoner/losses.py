"""Loss functions: tensors in, tensors out; a mean is a weighted sum over a given global weight.

Shape suffixes: N tokens, S states or steps, L trajectories, P pairs of a token and a trajectory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F


class PPOTerms(NamedTuple):
    """Per token: the clipped surrogate's loss, and where the clip held the gradient back."""

    loss_N: torch.Tensor
    clipped_N: torch.Tensor


def ppo_clip(
    logprobs_N: torch.Tensor,
    old_logprobs_N: torch.Tensor,
    advantages_N: torch.Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> PPOTerms:
    """-min(ratio · A, clip(ratio, 1 - low, 1 + high) · A) per token (Schulman et al. 2017, equation 7).

    `clip_high` above `clip_low` is DAPO's clip-higher (Yu et al. 2025, section 3.1).
    """
    ratio_N = (logprobs_N - old_logprobs_N).exp()
    free_N = ratio_N * advantages_N
    held_N = ratio_N.clamp(1 - clip_low, 1 + clip_high) * advantages_N
    return PPOTerms(-torch.minimum(free_N, held_N), (held_N < free_N).detach())


def cispo(
    logprobs_N: torch.Tensor,
    old_logprobs_N: torch.Tensor,
    advantages_N: torch.Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> PPOTerms:
    """-clip(ratio, 1 - low, 1 + high) · A · log p with the clipped ratio held constant (MiniMax-M1 2025, equation 4).

    The clip bounds a token's weight and never takes its gradient away.
    """
    ratio_N = (logprobs_N.detach() - old_logprobs_N).exp()
    held_N = ratio_N.clamp(1 - clip_low, 1 + clip_high)
    return PPOTerms(-held_N * advantages_N * logprobs_N, held_N != ratio_N)


class Sequences(NamedTuple):
    """Which tokens make up which trajectory: pairs P of a token and a trajectory L that runs through it.

    `share_P` says which part of the token's weight is that trajectory's; the parts of a token add up to 1.
    """

    token_P: torch.Tensor
    sequence_P: torch.Tensor
    share_P: torch.Tensor
    length_L: torch.Tensor


def gspo(
    logprobs_N: torch.Tensor,
    old_logprobs_N: torch.Tensor,
    advantages_N: torch.Tensor,
    clip_low: float,
    clip_high: float,
    sequences: Sequences,
) -> PPOTerms:
    """PPO's clipped surrogate with one ratio a trajectory: exp of its mean log ratio (Zheng et al. 2025, equation 7).

    Where trajectories share a token, the token's loss is the average over them by share.
    """
    token_P, sequence_P, share_P, length_L = sequences
    log_ratio_P = (logprobs_N - old_logprobs_N)[token_P]
    mean_L = torch.zeros_like(length_L).index_add(0, sequence_P, log_ratio_P) / length_L
    ratio_P = mean_L.exp()[sequence_P]
    free_P = ratio_P * advantages_N[token_P]
    held_P = ratio_P.clamp(1 - clip_low, 1 + clip_high) * advantages_N[token_P]
    zero_N = torch.zeros_like(logprobs_N)
    loss_N = zero_N.index_add(0, token_P, -share_P * torch.minimum(free_P, held_P))
    return PPOTerms(loss_N, zero_N.index_add(0, token_P, share_P * (held_P < free_P)).detach())


def truncated_importance(
    trainer_logprobs_N: torch.Tensor, sampler_logprobs_N: torch.Tensor, limit: float
) -> torch.Tensor:
    """min(p_trainer / p_sampler, limit) per token: corrects, with bounded variance, that another program sampled."""
    return (trainer_logprobs_N - sampler_logprobs_N).exp().clamp(max=limit).detach()


def kl_k1(logprobs_N: torch.Tensor, other_logprobs_N: torch.Tensor) -> torch.Tensor:
    """log p - log other per token sampled from p: an unbiased estimate of KL(p ‖ other) that may be negative.

    A number to watch: in a loss its expected gradient at p is 0.
    """
    return logprobs_N - other_logprobs_N


def kl_k2(logprobs_N: torch.Tensor, other_logprobs_N: torch.Tensor) -> torch.Tensor:
    """Half the squared log ratio (Schulman 2020, "k2"): a biased value whose gradient at p is that of KL(p ‖ other)."""
    return 0.5 * (logprobs_N - other_logprobs_N).square()


def kl_k3(logprobs_N: torch.Tensor, other_logprobs_N: torch.Tensor) -> torch.Tensor:
    """Unbiased, non-negative estimate of KL(p ‖ other) per token sampled from p (Schulman 2020, "k3").

    In a loss its gradient at p is that of KL(other ‖ p).
    """
    delta_N = other_logprobs_N - logprobs_N
    return delta_N.exp() - 1 - delta_N


KL: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


def value_of(logits_S: torch.Tensor, bounds: tuple[float, float] | None) -> torch.Tensor:
    """What a critic's logits say: a sigmoid over the range of returns, (0, 1) for a probability; linear without one."""
    if bounds is None:
        return logits_S
    return bounds[0] + (bounds[1] - bounds[0]) * logits_S.sigmoid()


def value_mse(values_S: torch.Tensor, returns_S: torch.Tensor) -> torch.Tensor:
    """Half the squared error per state."""
    return 0.5 * (values_S - returns_S).square()


def step_bce(logits_S: torch.Tensor, labels_S: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy per step; labels in [0, 1], soft ones too; a NaN label costs nothing."""
    known_S = ~labels_S.isnan()
    losses_S = F.binary_cross_entropy_with_logits(logits_S, labels_S.nan_to_num(), reduction="none")
    return losses_S * known_S


def step_mse(logits_S: torch.Tensor, labels_S: torch.Tensor) -> torch.Tensor:
    """(σ(logit) - label)² per step; a NaN label costs nothing."""
    return (logits_S.sigmoid() - labels_S).square().nan_to_num(nan=0.0)


def weighted_mean(
    values_N: torch.Tensor, weights_N: torch.Tensor, total: torch.Tensor | float
) -> torch.Tensor:
    """Σ weight · value / total, where `total` may be the weight of a larger, global batch."""
    return (values_N * weights_N).sum() / total
