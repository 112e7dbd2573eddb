"""Process rewards that resist hacking: the verifier's outcome always, the PRM in min-form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from reasoner.config import Config


class RewardConfig(Config):
    """What a trajectory earns, step by step."""

    outcome_weight: float = Field(
        1.0, description="reward of a verified answer; 0 leaves the PRM alone and invites hacking"
    )
    prm_weight: float = Field(0.0, description="weight of the PRM's min-form reward")
    prm_temperature: float = Field(
        0.1, gt=0, description="softness of the minimum; towards 0 only the worst step counts"
    )


def min_form(scores: Sequence[float], temperature: float) -> np.ndarray:
    """Per step, softmax(-score / temperature) · (score - 1): summed over steps, a soft minimum less 1.

    With scores in [0, 1] a chain without fault costs nothing, and the worst step costs most.

    PURE (Cheng et al. 2025, section 3): a return that is the minimum of process rewards cannot be raised by
    adding steps, as a sum can.
    """
    s = np.asarray(scores, dtype=float)
    if len(s) == 0:
        return s
    z = -(s - s.min()) / temperature
    w = np.exp(z) / np.exp(z).sum()
    return w * (s - 1)


def step_rewards(
    outcome: float, scores: Sequence[float] | None, num_steps: int, config: RewardConfig
) -> np.ndarray:
    """The reward at each of a trajectory's steps: the outcome at the last one, the PRM's min-form at all."""
    rewards = np.zeros(num_steps)
    if scores is not None and config.prm_weight:
        rewards += config.prm_weight * min_form(scores, config.prm_temperature)
    rewards[-1] += config.outcome_weight * outcome
    return rewards
