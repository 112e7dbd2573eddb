"""Advantages without a critic, from a group: each trajectory against the others of its tree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np

from reasoner.records import PolicySample
from reasoner.registry import UserError
from reasoner.signals.backup import leaf_weights
from reasoner.signals.credit import AdvantageConfig, Step, over_leaves, steps_of
from reasoner.signals.reward import trajectory_rewards
from reasoner.tree import ROOT, Tree

EPSILON = 1e-6  # added to deviations, as TRL and prime-rl do (there 1e-4 and 1e-6)


def rloo(tree: Tree, config: AdvantageConfig) -> PolicySample:
    """Each trajectory's return less the weighted mean of the others' (Ahmadian et al. 2024, equation 7).

    The others are those from other draws at the prompt: one that shares tokens with the trajectory depends on
    them, and would bias their gradient. Without others nothing is learned.
    """
    returns, weights = _returns(tree, config)
    chain, mass, total = draws(tree, returns, weights)

    def advantage(leaf: int) -> float:
        own = chain[leaf]
        if len(mass) < 2:
            return 0.0
        return returns[leaf] - (sum(total.values()) - total[own]) / (sum(mass.values()) - mass[own])

    return _flat(tree, config, advantage)


def shrunk(tree: Tree, config: AdvantageConfig) -> PolicySample:
    """As rloo, the others' mean drawn towards the pass rate that was predicted before the tree was drawn.

    The prediction, from `tree.scores["pass_rate"]` at the prompt's end, weighs as much as `config.prior` other draws, so
    small groups have a baseline with little noise, and one draw alone has one at all (SPO 2025, V0.5 2026). It does not
    depend on what is judged: the gradient stays unbiased, however wrong it is.
    """
    returns, weights = _returns(tree, config)
    chain, mass, total = draws(tree, returns, weights)
    if "pass_rate" not in tree.scores:
        raise UserError(
            f"the tree of {tree.problem.id!r} has no predicted pass rate, which advantage.method=shrunk reads; expected one of a "
            "policy stage with a curriculum: take another method here"
        )
    expected = config.reward.outcome_weight * tree.scores["pass_rate"][ROOT][0]

    def advantage(leaf: int) -> float:
        own = chain[leaf]
        others = sum(mass.values()) - mass[own]
        # in the unit of the others' masses; the own one hangs on the own tokens where branches are pruned by them
        prior = config.prior * (others / (len(mass) - 1) if len(mass) > 1 else 1.0)
        return returns[leaf] - (sum(total.values()) - total[own] + prior * expected) / (others + prior)

    return _flat(tree, config, advantage)


def grpo(tree: Tree, config: AdvantageConfig) -> PolicySample:
    """(return - mean) / deviation over the group (Shao et al. 2024, section 4.1.2); the deviation is the sample's (n - 1)."""
    returns, weights = _returns(tree, config)
    mean, deviation = _moments(list(returns.values()), [weights[leaf] for leaf in returns])
    return _flat(tree, config, lambda leaf: (returns[leaf] - mean) / (deviation + EPSILON))


def dr_grpo(tree: Tree, config: AdvantageConfig) -> PolicySample:
    """return - mean over the group, not divided by the deviation (Liu et al. 2025, section 3.2)."""
    returns, weights = _returns(tree, config)
    mean, _ = _moments(list(returns.values()), [weights[leaf] for leaf in returns])
    return _flat(tree, config, lambda leaf: returns[leaf] - mean)


def maxrl(tree: Tree, config: AdvantageConfig) -> PolicySample:
    """(return - mean) / mean over the group: what is seldom right weighs most (MaxRL 2026; ∇log of the pass rate with many).

    Returns are taken to be 0 or more; a group without a success teaches nothing.
    """
    returns, weights = _returns(tree, config)
    mean, _ = _moments(list(returns.values()), [weights[leaf] for leaf in returns])
    return _flat(tree, config, lambda leaf: (returns[leaf] - mean) / mean if mean > EPSILON else 0.0)


def grpo_process(tree: Tree, config: AdvantageConfig) -> PolicySample:
    """Step rewards standardised over all steps of the group; a step's advantage is the sum from it on.

    Process supervision of Shao et al. 2024 (section 4.1.3); the rewards here are the fused ones.
    """
    weights = leaf_weights(tree)
    rewards = {leaf: trajectory_rewards(tree, leaf, config.reward) for leaf in weights}
    known = {leaf: r for leaf, r in rewards.items() if r is not None}
    mean, deviation = _moments(
        [x for r in known.values() for x in r], [weights[leaf] for leaf, r in known.items() for _ in r]
    )

    def of_leaf(leaf: int, rewards: np.ndarray) -> tuple[list[Step], np.ndarray, np.ndarray]:
        standard = (rewards - mean) / (deviation + EPSILON)
        return steps_of(tree, leaf), _to_go(standard), _to_go(rewards)

    return over_leaves(tree, config, of_leaf)


def _to_go(rewards: np.ndarray) -> np.ndarray:
    return np.cumsum(rewards[::-1])[::-1]


def _returns(tree: Tree, config: AdvantageConfig) -> tuple[dict[int, float], dict[int, float]]:
    """Returns of the judged trajectories, and their weights."""
    weights = leaf_weights(tree)
    rewards = {leaf: trajectory_rewards(tree, leaf, config.reward) for leaf in weights}
    returns = {leaf: float(r.sum()) for leaf, r in rewards.items() if r is not None}
    return returns, {leaf: weights[leaf] for leaf in returns}


def draws(
    tree: Tree, returns: dict[int, float], weights: dict[int, float]
) -> tuple[dict[int, int], defaultdict[int, float], defaultdict[int, float]]:
    """Which draw at the prompt each trajectory comes from; the mass of each draw, and its mass times return."""
    chain = {leaf: tree.path(leaf)[1].node for leaf in returns}
    mass: defaultdict[int, float] = defaultdict(float)
    total: defaultdict[int, float] = defaultdict(float)
    for leaf, r in returns.items():
        mass[chain[leaf]] += weights[leaf]
        total[chain[leaf]] += weights[leaf] * r
    return chain, mass, total


def _moments(values: list[float], weights: list[float]) -> tuple[float, float]:
    """Weighted mean and deviation with Bessel's factor; (0, 0) of nothing."""
    if not values:
        return 0.0, 0.0
    x, w = np.array(values), np.array(weights)
    mean = float((w * x).sum() / w.sum())
    if len(x) < 2:
        return mean, 0.0
    return mean, float(np.sqrt((w * (x - mean) ** 2).sum() / w.sum() * len(x) / (len(x) - 1)))


def _flat(tree: Tree, config: AdvantageConfig, advantage: Callable[[int], float]) -> PolicySample:
    """The same advantage at every token of a trajectory."""

    def of_leaf(leaf: int, rewards: np.ndarray) -> tuple[list[Step], np.ndarray, np.ndarray]:
        steps = steps_of(tree, leaf)
        return steps, np.full(len(steps), advantage(leaf)), _to_go(rewards)

    return over_leaves(tree, config, of_leaf)
