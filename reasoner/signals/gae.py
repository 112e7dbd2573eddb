"""Advantages with a critic: PPO over tokens, and over steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from reasoner.records import PolicySample
from reasoner.signals.credit import AdvantageConfig, Step, by_piece, over_leaves, steps_of, tokens_of
from reasoner.signals.reward import is_judged
from reasoner.tree import ROOT, Tree


def gae(rewards: np.ndarray, before: np.ndarray, after: np.ndarray, gamma: float, lam: float) -> np.ndarray:
    """Generalised advantages (Schulman et al. 2016, equation 16) from rewards and the values around each action."""
    deltas = rewards + gamma * after - before
    advantages = np.zeros(len(rewards))
    running = 0.0
    for k in reversed(range(len(rewards))):
        running = deltas[k] + gamma * lam * running
        advantages[k] = running
    return advantages


def step_ppo(tree: Tree, config: AdvantageConfig) -> PolicySample:
    """Generalised advantages with steps for time.

    V, from `tree.scores["value"]`, is read at the last token before each step and at the prompt's end; a
    step's advantage goes to each of its tokens. A judged outcome is terminal, however the trajectory ended: V is 0
    after its last step. Only a trajectory that the token limit cut and that nobody judged bootstraps.
    """
    return _with_critic(tree, config, steps_of, lambda leaf: tree.path_scores("value", leaf), "value")


def ppo(tree: Tree, config: AdvantageConfig) -> PolicySample:
    """Generalised advantages with tokens for time (Ouyang et al. 2022); V in `tree.scores["token_value"]`, one a token."""
    values = tree.scores["token_value"]

    def of_path(leaf: int) -> list[float]:
        return [v for s in tree.path(leaf)[1:] for v in values[s.node][: s.end]]

    return _with_critic(tree, config, tokens_of, of_path, "token_value")


def _with_critic(
    tree: Tree,
    config: AdvantageConfig,
    cut: Callable[[Tree, int], list[Step]],
    values_after: Callable[[int], list[float]],
    name: str,
) -> PolicySample:
    start_value = tree.scores[name][ROOT][0]

    def of_leaf(leaf: int, rewards: np.ndarray) -> tuple[list[Step], np.ndarray, np.ndarray]:
        steps = cut(tree, leaf)
        after = np.array(values_after(leaf))
        before = np.concatenate(([start_value], after[:-1]))
        if is_judged(tree, leaf):  # its outcome is paid: V there would pay a second time
            after[-1] = 0.0
        if len(rewards) != len(steps):
            rewards = by_piece(steps, steps_of(tree, leaf), rewards)
        advantages = gae(rewards, before, after, config.gamma, config.lam)
        return steps, advantages, advantages + before

    return over_leaves(tree, config, of_leaf, bootstraps=True)
