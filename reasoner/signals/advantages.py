"""From scored trees to per-token advantages: one function per method, chosen in the table at the end.

A trajectory is a list of steps; a token that several trajectories share gets their advantages averaged by
path weight. All methods take errors out: a leaf that our side failed to judge weighs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from reasoner.config import Config
from reasoner.records import PolicySample, StateTarget
from reasoner.scoring.backup import leaf_weights, path_weights
from reasoner.scoring.outcome import outcome_reward
from reasoner.scoring.reward import RewardConfig, step_rewards
from reasoner.tree import ROOT, Tree


class AdvantageConfig(Config):
    """How rewards become advantages."""

    method: str = Field("step_ppo", description="step_ppo | rloo, or module:function")
    gamma: float = Field(1.0, description="discount across steps; inside a step it is 1")
    lam: float = Field(0.95, description="GAE's lambda across steps; inside a step it is 1")
    reward: RewardConfig = RewardConfig()


@dataclass(frozen=True)
class Step:
    """A step of one trajectory: its token spans (node, start, end), and the state before it as (node, offset)."""

    spans: list[tuple[int, int, int]]
    before: tuple[int, int]
    end: tuple[int, int]  # node and index of the last token


def steps_of(tree: Tree, leaf: int) -> list[Step]:
    """The steps of a trajectory in order; a step may begin in an ancestor of the node where it ends."""
    found: list[Step] = []
    spans: list[tuple[int, int, int]] = []
    before = (ROOT, len(tree.nodes[ROOT].token_ids))
    for node, _, end in tree.path(leaf)[1:]:
        start = 0
        for index in tree.nodes[node].step_ends:
            if index >= end:
                break
            spans.append((node, start, index + 1))
            found.append(Step(spans, before, (node, index)))
            spans, before, start = [], (node, index + 1), index + 1
        if start < end:
            spans.append((node, start, end))
    return found


def step_ppo(tree: Tree, config: AdvantageConfig) -> PolicySample:
    """Generalised advantages over steps (Schulman et al. 2016, equation 16, with steps for time).

    V, from `tree.scores["value"]`, is read at the last token before each step and at the prompt's end; a
    step's advantage goes to each of its tokens. A trajectory that ended by itself has value 0 after its last
    step; one cut by the token limit bootstraps.
    """
    values = tree.scores["value"]
    start_value = values[ROOT][0]
    prm = tree.scores.get("prm")

    def of_leaf(leaf: int, reward: float) -> tuple[list[Step], np.ndarray, np.ndarray]:
        steps = steps_of(tree, leaf)
        after = np.array(tree.path_scores("value", leaf))
        before = np.concatenate(([start_value], after[:-1]))
        if tree.nodes[leaf].stop_reason != "length":
            after[-1] = 0.0
        rewards = step_rewards(
            reward, tree.path_scores("prm", leaf) if prm else None, len(steps), config.reward
        )
        deltas = rewards + config.gamma * after - before
        advantages = np.zeros(len(steps))
        running = 0.0
        for k in reversed(range(len(steps))):
            running = deltas[k] + config.gamma * config.lam * running
            advantages[k] = running
        return steps, advantages, advantages + before

    return _over_leaves(tree, of_leaf)


def rloo(tree: Tree, config: AdvantageConfig) -> PolicySample:
    """Each trajectory's return less the weighted mean of the others' (Ahmadian et al. 2024, equation 7); no critic."""
    prm = tree.scores.get("prm")
    weights = leaf_weights(tree)
    returns = {}
    for leaf in weights:
        reward = outcome_reward(tree.verdicts.get(leaf))
        if reward is not None and tree.nodes[leaf].token_ids:
            n = len(tree.step_ends(leaf))
            scores = tree.path_scores("prm", leaf) if prm else None
            returns[leaf] = float(step_rewards(reward, scores, n, config.reward).sum())

    def of_leaf(leaf: int, reward: float) -> tuple[list[Step], np.ndarray, np.ndarray]:
        others = [(weights[o], r) for o, r in returns.items() if o != leaf]
        mass = sum(w for w, _ in others)
        baseline = sum(w * r for w, r in others) / mass if mass else returns[leaf]
        steps = steps_of(tree, leaf)
        flat = np.full(len(steps), returns[leaf])
        return steps, flat - baseline, flat

    return _over_leaves(tree, of_leaf)


def _over_leaves(
    tree: Tree, of_leaf: Callable[[int, float], tuple[list[Step], np.ndarray, np.ndarray]]
) -> PolicySample:
    """Average the leaves' step advantages and returns over shared tokens and states by path weight."""
    sampled = range(1, len(tree.nodes))
    advantage = {i: np.zeros(len(tree.nodes[i].token_ids)) for i in sampled}
    mass = {i: np.zeros(len(tree.nodes[i].token_ids)) for i in sampled}
    returns: dict[tuple[int, int], list[float]] = {}
    paths = path_weights(tree)
    for leaf in tree.leaves():
        reward = outcome_reward(tree.verdicts.get(leaf))
        if reward is None or not tree.nodes[leaf].token_ids:
            continue
        weight = float(paths[leaf][-1])
        steps, advantages, step_returns = of_leaf(leaf, reward)
        for step, a, g in zip(steps, advantages, step_returns, strict=True):
            for node, start, end in step.spans:
                advantage[node][start:end] += weight * a
                mass[node][start:end] += weight
            total = returns.setdefault(step.before, [0.0, 0.0])
            total[0] += weight * g
            total[1] += weight
    for i in sampled:
        np.divide(advantage[i], mass[i], out=advantage[i], where=mass[i] > 0)
    targets = [StateTarget(node, offset, g / w, w) for (node, offset), (g, w) in returns.items() if w > 0]
    return PolicySample(tree, advantage, mass, targets)


ADVANTAGES: dict[str, Callable[[Tree, AdvantageConfig], PolicySample]] = {
    "step_ppo": step_ppo,
    "rloo": rloo,
}
