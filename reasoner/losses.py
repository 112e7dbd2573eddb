"""Loss functions: tensors in, tensors out; a mean is a weighted sum over a given global weight.

Shape suffixes: N tokens, S states or steps.
"""

from __future__ import annotations

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


def truncated_importance(
    trainer_logprobs_N: torch.Tensor, sampler_logprobs_N: torch.Tensor, limit: float
) -> torch.Tensor:
    """min(p_trainer / p_sampler, limit) per token: corrects, with bounded variance, that another program sampled."""
    return (trainer_logprobs_N - sampler_logprobs_N).exp().clamp(max=limit).detach()


def kl_k3(logprobs_N: torch.Tensor, other_logprobs_N: torch.Tensor) -> torch.Tensor:
    """Unbiased, non-negative estimate of KL(p ‖ other) per token sampled from p (Schulman 2020, "k3")."""
    delta_N = other_logprobs_N - logprobs_N
    return delta_N.exp() - 1 - delta_N


def value_mse(values_S: torch.Tensor, returns_S: torch.Tensor) -> torch.Tensor:
    """Half the squared error per state."""
    return 0.5 * (values_S - returns_S).square()


def step_bce(logits_S: torch.Tensor, labels_S: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy per step; labels in [0, 1], soft ones too; a NaN label costs nothing."""
    known_S = ~labels_S.isnan()
    losses_S = F.binary_cross_entropy_with_logits(logits_S, labels_S.nan_to_num(), reduction="none")
    return losses_S * known_S


def weighted_mean(
    values_N: torch.Tensor, weights_N: torch.Tensor, total: torch.Tensor | float
) -> torch.Tensor:
    """Σ weight · value / total, where `total` may be the weight of a larger, global batch."""
    return (values_N * weights_N).sum() / total
