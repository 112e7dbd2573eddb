"""Advantages of implicit process rewards, joined to those of outcomes (PRIME, Cui et al. 2025)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reasoner.records import PolicySample
from reasoner.signals.backup import leaf_weights
from reasoner.signals.credit import AdvantageConfig, Step, over_leaves, tokens_of
from reasoner.signals.group import draws
from reasoner.signals.reward import trajectory_rewards
from reasoner.tree import ROOT, Tree


def token_rewards(tree: Tree, leaf: int) -> np.ndarray:
    """Of each token of a trajectory, what it adds to beta · log(π_φ / π_ref), which `tree.scores["implicit"]` holds summed up.

    Their sum is that of the whole trajectory.
    """
    values = tree.scores["implicit"]
    after = [v for span in tree.path(leaf)[1:] for v in values[span.node][: span.end]]
    return np.diff([values[ROOT][0], *after])


def with_implicit_rewards(sample: PolicySample, weight: float, config: AdvantageConfig) -> PolicySample:
    """The sample with `weight` times the process advantages added: A_t = Σ from t on of (r_s − the others' mean reward).

    The others' mean is over their chains of each one's mean over its tokens (Cui et al. 2025, section 3.3, equation 5), of
    chains from other draws at the prompt. It is paid by each token, so chains that are longer than their rewards merit lose.
    """
    tree = sample.tree
    weights = leaf_weights(tree)
    known = [leaf for leaf in weights if trajectory_rewards(tree, leaf, config.reward) is not None]
    rewards = {leaf: token_rewards(tree, leaf) for leaf in known}
    chain, mass, total = draws(tree, {leaf: float(r.mean()) for leaf, r in rewards.items()}, weights)

    def of_leaf(leaf: int, _: np.ndarray) -> tuple[list[Step], np.ndarray, np.ndarray]:
        own = chain[leaf]
        others = sum(mass.values()) - mass[own]
        left = rewards[leaf] - (sum(total.values()) - total[own]) / others if others else 0 * rewards[leaf]
        to_go = np.cumsum(left[::-1])[::-1]
        return tokens_of(tree, leaf), to_go, to_go

    added = over_leaves(tree, config, of_leaf).advantages
    return replace(sample, advantages={i: a + weight * added[i] for i, a in sample.advantages.items()})
