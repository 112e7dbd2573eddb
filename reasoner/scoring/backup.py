"""From leaves to states: how much each path weighs, and the mean outcome below every token.

Only the continuations that were drawn count. The text of a node after a branch point is itself one of the
draws from that state, so a state with T branches in the middle of a node splits its weight in T + 1. A node
that was kept with probability q (its propensity) stands for 1 / q like it; what was not kept stays in the tree.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from reasoner.scoring.outcome import outcome_reward
from reasoner.tree import NO_PARENT, Tree


def path_weights(tree: Tree) -> list[np.ndarray]:
    """Per node, per token: the weight of the trajectory at that token, 1 in all at the prompt's end.

    The weight is the product of 1 / (continuations drawn · propensity) over the branch states before the
    token, so that uneven branching and pruning leave the policy gradient unbiased. The entry after the last
    token of a node (one more than its tokens) is the weight of the trajectory that ends there.
    """
    branches: Counter[tuple[int, int]] = Counter((n.parent, n.offset) for n in tree.nodes[1:])
    weights: list[np.ndarray] = []
    for i, node in enumerate(tree.nodes):
        length = len(node.token_ids)
        if node.parent == NO_PARENT:
            weights.append(np.ones(length + 1))
            continue
        parent = tree.nodes[node.parent]
        start = weights[node.parent][node.offset] if node.offset < len(parent.token_ids) else None
        # at a parent's end nothing of the parent itself goes on
        if start is None:
            start = weights[node.parent][-1] / branches[(node.parent, node.offset)]
        w = np.full(length + 1, start / node.propensity)
        for offset in sorted(o for (p, o) in branches if p == i and o < length):
            w[offset:] /= branches[(i, offset)] + 1
        weights.append(w)
    return weights


def leaf_weights(tree: Tree) -> dict[int, float]:
    """The weight of each leaf's trajectory; they add up to 1, on average where some were not kept."""
    weights = path_weights(tree)
    return {leaf: float(weights[leaf][-1]) for leaf in tree.leaves()}


def mean_outcomes(tree: Tree) -> list[np.ndarray]:
    """Per node, per state (0 to all of its tokens): the weighted mean outcome of the leaves below; NaN where none was judged."""
    leaf_weight = leaf_weights(tree)
    total = [np.zeros(len(n.token_ids) + 1) for n in tree.nodes]
    mass = [np.zeros(len(n.token_ids) + 1) for n in tree.nodes]
    for leaf, weight in leaf_weight.items():
        reward = outcome_reward(tree.verdicts.get(leaf))
        if reward is None:
            continue
        for span in tree.path(leaf):
            total[span.node][: span.end + 1] += weight * reward
            mass[span.node][: span.end + 1] += weight
    with np.errstate(invalid="ignore"):
        return [t / m for t, m in zip(total, mass, strict=True)]
