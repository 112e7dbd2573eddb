"""From leaves to states: how much each path weighs, and the mean outcome below every token.

Only the continuations that were drawn count. The text of a node after a branch point is itself one of the
draws from that state, so a state with T branches in the middle of a node splits its weight in T + 1. A node
that was kept with probability q (its propensity) stands for 1 / q like it; what was not kept stays in the tree.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from reasoner.tree import NO_PARENT, Tree, outcome_reward


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


def unbiased_values(tree: Tree) -> list[np.ndarray]:
    """Per node, per state (0 to all of its tokens): the value that pruning leaves unbiased; NaN where nothing was judged.

    A state's value is the mean over its planned continuations, each divided by its propensity, and 0 for those
    not drawn; it may pass 1. What our side failed to judge is left out of the mean. The state to branch must
    have been chosen without looking at what follows it, else its own remainder is no fair draw.
    """
    below: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, node in enumerate(tree.nodes[1:], start=1):
        below[node.parent, node.offset].append(i)
    values = [np.full(len(n.token_ids) + 1, np.nan) for n in tree.nodes]

    def of_children(i: int, offset: int) -> list[float]:
        return [
            0.0 if tree.nodes[c].is_pruned else float(values[c][0]) / tree.nodes[c].propensity
            for c in below.get((i, offset), [])
        ]

    for i in reversed(range(len(tree.nodes))):
        length = len(tree.nodes[i].token_ids)
        reward = outcome_reward(tree.verdicts.get(i))
        value = _mean(of_children(i, length) or [np.nan if reward is None else reward])
        values[i][length] = value
        for offset in reversed(range(length)):
            if (i, offset) in below:
                value = _mean([value, *of_children(i, offset)])
            values[i][offset] = value
    return values


def _mean(numbers: list[float]) -> float:
    known = [x for x in numbers if not np.isnan(x)]
    return sum(known) / len(known) if known else np.nan


class PruningReport(NamedTuple):
    """Planned continuations that pruners were against: `dropped` by rule, `continued` all the same.

    `known` of these were judged, and `lost` is the sum of their values. All numbers of several reports add up.
    """

    planned: int
    dropped: dict[str, int]
    continued: int
    known: int
    lost: float

    @property
    def error(self) -> float:
        """What pruning threw away: the share of correct answers among what it was against (NaN where nothing is known)."""
        return self.lost / self.known if self.known else np.nan


def pruning_report(trees: Iterable[Tree]) -> PruningReport:
    """What live pruning cut from trees, and its own error as measured on the random share that was continued."""
    planned, dropped, found = 0, Counter[str](), []
    for tree in trees:
        planned += len(tree.nodes) - 1
        dropped.update(n.stop_reason.partition(":")[2] for n in tree.nodes if n.is_pruned)
        continued = [i for i, n in enumerate(tree.nodes) if n.propensity < 1 and not n.is_pruned]
        if continued:
            values = unbiased_values(tree)
            found += [float(values[i][0]) for i in continued]
    known = [x for x in found if not np.isnan(x)]
    return PruningReport(planned, dict(dropped), len(found), len(known), sum(known))
