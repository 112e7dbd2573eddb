"""What a trajectory earns at each of its steps: the verifier's outcome always, the PRM in a form that resists hacking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from reasoner.config import Config, Entry
from reasoner.registry import UserError, lookup
from reasoner.tree import ROOT, Tree, outcome_reward
from verifiers.verdict import Verdict

CUT = ("length", "context")  # stop reasons of a completion that was not at its end


class RewardConfig(Config):
    """What a trajectory earns, step by step."""

    outcome_weight: float = Field(
        default=1.0,
        ge=0,
        description="reward of a verified answer; 0 leaves the PRM alone and invites hacking",
    )
    partial_weight: float = Field(
        default=0.0,
        ge=0,
        description="reward of a wrong answer that has the verifier's whole credit: its share of the tests that pass, half for "
        "a sum of the right numbers with a wrong result; below outcome_weight",
    )
    prm_weight: float = Field(default=0.0, ge=0, description="weight of the PRM's reward, in the form below")
    prm_form: Annotated[str, Entry("form of the PRM's reward", "reasoner.signals.reward:FORMS")] = Field(
        default="min",
        description="min (PURE: a soft minimum of the scores) | progress (PAV: gains under a best-of-k prover) | "
        "difference (gains of the score: a baseline and nothing else where gamma = lam = 1) | "
        "sum (invites hacking), or module:function",
    )
    prm_temperature: float = Field(
        default=0.1, gt=0, description="of min: its softness; towards 0 only the worst step counts"
    )
    prover_best_of: int = Field(
        default=4,
        ge=1,
        description="of progress: how many answers the prover draws from a state to keep the best",
    )
    orm_weight: float = Field(
        default=0.0, ge=0, description="weight of the ORM's score; below outcome_weight it only breaks ties"
    )
    format_weight: float = Field(
        default=0.0, ge=0, description="cost of a completion without an answer to check"
    )
    length_weight: float = Field(default=0.0, ge=0, description="cost of a completion that is too long")
    length_free: int = Field(default=256, ge=0, description="tokens that cost nothing")
    length_span: int = Field(
        default=64, ge=1, description="tokens after these over which the cost rises to its weight"
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


def progress(scores: Sequence[float], start: float, best_of: int) -> np.ndarray:
    """Per step, how much it raises 1 - (1 - v)^k, the chance that the best of k continuations is right.

    Process advantage under another prover (Setlur et al. 2024, section 3), which best-of-k of the policy is;
    `start` is v at the prompt's end. With k = 1 it telescopes into a baseline.
    """
    v = 1 - (1 - np.clip(np.array([start, *scores], dtype=float), 0, 1)) ** best_of
    return np.diff(v)


# PRM scores of a trajectory's steps, the score at the prompt's end, the options → a reward per step
FORMS: dict[str, Callable[[Sequence[float], float, RewardConfig], np.ndarray]] = {
    "min": lambda scores, start, config: min_form(scores, config.prm_temperature),
    "progress": lambda scores, start, config: progress(scores, start, config.prover_best_of),
    "difference": lambda scores, start, config: progress(scores, start, 1),
    "sum": lambda scores, start, config: np.asarray(scores, dtype=float),
}


def step_rewards(
    outcome: float, scores: Sequence[float] | None, num_steps: int, config: RewardConfig, start: float = 0.0
) -> np.ndarray:
    """The reward at each of a trajectory's steps: the outcome at the last one, the PRM's form at all."""
    rewards = np.zeros(num_steps)
    if scores is not None and config.prm_weight:
        rewards += config.prm_weight * lookup(FORMS, config.prm_form, "form of the PRM's reward")(
            scores, start, config
        )
    rewards[-1] += config.outcome_weight * outcome
    return rewards


def length_cost(num_tokens: int, config: RewardConfig) -> float:
    """0 up to `length_free` tokens, then rising to 1 over `length_span` (DAPO, Yu et al. 2025, equation 13)."""
    return min(1.0, max(0.0, (num_tokens - config.length_free) / config.length_span))


def is_judged(tree: Tree, leaf: int) -> bool:
    """Whether somebody was asked about the trajectory's outcome, even if our side then failed."""
    return leaf in tree.verdicts


def partial_credit(verdict: Verdict | None) -> float:
    """What a wrong answer has of the right one by its verifier, 0 to 1; 0 for a right one, which is paid already."""
    return verdict.score or 0.0 if verdict is not None and verdict.status == "incorrect" else 0.0


def trajectory_rewards(
    tree: Tree, leaf: int, config: RewardConfig, bootstraps: bool = False
) -> np.ndarray | None:
    """The fused reward at each step of the trajectory; None where our side failed to judge it, or it is empty.

    With `bootstraps` a trajectory that the token limit cut and nobody judged counts too: it has what its steps earn,
    and no outcome; the caller sets a value for what would have followed.

    Reads `tree.scores["prm"]` (with the score at the prompt's end under the root, for the forms that need it)
    and `tree.scores["orm"]` (at the last step end) where their weights are not 0.
    """
    verdict = tree.verdicts.get(leaf)
    outcome = outcome_reward(verdict)
    if bootstraps and verdict is None and tree.nodes[leaf].stop_reason in CUT:
        outcome = 0.0
    if outcome is None or not tree.nodes[leaf].token_ids:
        return None
    prm = tree.scores.get("prm") if config.prm_weight else None
    scores = tree.path_scores("prm", leaf) if prm is not None else None
    start = prm[ROOT][0] if prm is not None and ROOT in prm else 0.0
    rewards = step_rewards(outcome, scores, len(tree.step_ends(leaf)), config, start)
    if config.partial_weight:
        rewards[-1] += config.partial_weight * partial_credit(verdict)
    if config.orm_weight and "orm" in tree.scores and verdict is not None:
        rewards[-1] += config.orm_weight * (tree.scores["orm"][leaf][-1] - 0.5)
    if config.format_weight and verdict is not None and verdict.status == "no_answer":
        rewards[-1] -= config.format_weight
    if config.length_weight:
        rewards[-1] -= config.length_weight * length_cost(len(tree.completion_ids(leaf)), config)
    return rewards


# what the sum of a form's rewards from any step on can be, where it has bounds
BOUNDS: dict[str, tuple[float, float]] = {"min": (-1, 0), "progress": (-1, 1), "difference": (-1, 1)}


def return_range(config: RewardConfig) -> tuple[float, float] | None:
    """The least and the largest return that a state can have, undiscounted; None where the PRM's form has no bounds."""
    low, high = 0.0, max(config.outcome_weight, config.partial_weight)
    if config.prm_weight:
        if config.prm_form not in BOUNDS:
            return None
        low += config.prm_weight * BOUNDS[config.prm_form][0]
        high += config.prm_weight * BOUNDS[config.prm_form][1]
    low -= 0.5 * config.orm_weight + config.format_weight + config.length_weight
    return low, high + 0.5 * config.orm_weight


def doubts(config: RewardConfig) -> list[str]:
    """What in these weights invites hacking, one sentence each; unknown names are a UserError."""
    found = []
    lookup(FORMS, config.prm_form, "form of the PRM's reward")
    if config.outcome_weight == 0:
        found.append("outcome_weight is 0: nothing ties the reward to right answers")
    if config.partial_weight and config.partial_weight >= config.outcome_weight:
        found.append(
            "partial_weight is not below outcome_weight: an answer that is nearly right is paid as a right one"
        )
    if config.prm_weight and config.prm_form == "sum":
        found.append(
            "prm_form is sum: each further step that the PRM likes is paid for, filler and repeats too"
        )
    if config.orm_weight and config.orm_weight >= config.outcome_weight:
        found.append("orm_weight is not below outcome_weight: the ORM can overrule the verifier")
    if not any((config.outcome_weight, config.prm_weight, config.orm_weight)):
        raise UserError(
            "outcome_weight, prm_weight and orm_weight are all 0, so nothing is rewarded; expected one above 0"
        )
    return found
