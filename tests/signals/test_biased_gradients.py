"""Estimators that are biased as they were published: their expected gradient is the closed form of that bias, exactly.

Dividing by the group's deviation, counting a trajectory in its own mean, and dividing by its length each bias a policy
gradient by design. What is expected of them here is derived by hand where chains are independent, and from the published
formula, spelled out once more over all trees and their chances, where the repository's own rules branch them.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from tabular import Tabular, even, fan

from reasoner.search.places import RULES
from reasoner.signals.advantages import ADVANTAGES
from reasoner.signals.credit import AdvantageConfig
from reasoner.signals.group import EPSILON
from reasoner.tree import ROOT, Tree
from tests.signals.test_exact_gradient import (
    EXACT,
    POLICY,
    RAGGED,
    all_trees,
    expected_gradient,
    first_chains_branch_too,
    under_a_rule,
)

__all__ = ["first_chains_branch_too"]  # a fixture of this module as well


def by_depth(policy: Tabular, exact: np.ndarray, depth: int) -> np.ndarray:
    """The part of a gradient that is about the tokens after prefixes of one length."""
    place = np.concatenate([np.full(len(x), len(p)) for p, x in policy.logits.items()])
    return np.where(place == depth, exact, 0.0)


def lifts(size: int, advantage: Callable[[int, int], float]) -> float:
    """What a right chain's advantage has over a wrong one's, in expectation over the others of an independent group.

    `advantage(own, total)`: of a chain with that outcome in a group with so many right ones.
    """
    p = POLICY.value(())
    chances = [math.comb(size - 1, k) * p**k * (1 - p) ** (size - 1 - k) for k in range(size)]
    return sum(c * (advantage(1, k + 1) - advantage(0, k)) for k, c in enumerate(chances))


def standard(values: list[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) + EPSILON


@pytest.mark.parametrize("size", [2, 3])
def test_grpo_of_independent_chains_is_the_exact_gradient_times_what_a_right_chain_is_ahead(size):
    """Shao et al. 2024, section 4.1.2: chains see the others only through how many are right."""

    def advantage(own: int, total: int) -> float:
        mean, deviation = standard([1.0] * total + [0.0] * (size - total))
        return (own - mean) / deviation

    found = expected_gradient(lambda c: fan(POLICY, c, size), "grpo")
    assert found == pytest.approx(lifts(size, advantage) * EXACT, abs=1e-9)
    assert abs(lifts(size, advantage) - 1) > 0.05  # else nothing of the division would be seen


@pytest.mark.parametrize("size", [2, 3])
def test_grpo_process_of_independent_chains_by_the_step(size):
    """Shao et al. 2024, section 4.1.3, the outcome as the last step's reward: each step has a factor of its own."""
    wanted = np.zeros_like(EXACT)
    for step in range(POLICY.depth):

        def advantage(own: int, total: int, step: int = step) -> float:
            rewards = [1.0] * total + [0.0] * (size * POLICY.depth - total)
            mean, deviation = standard(rewards)
            own_rewards = [0.0] * (POLICY.depth - 1) + [float(own)]
            return sum((r - mean) / deviation for r in own_rewards[step:])

        wanted += lifts(size, advantage) * by_depth(POLICY, EXACT, step)
    found = expected_gradient(lambda c: fan(POLICY, c, size), "grpo_process")
    assert found == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("size", [2, 3])
def test_tree_rl_of_a_tree_without_branches_is_twice_the_exact_gradient(size):
    """Hou et al. 2025, section 3.2: the global and the local advantage are the same there."""
    assert expected_gradient(lambda c: fan(POLICY, c, size), "tree_rl") == pytest.approx(2 * EXACT, abs=1e-9)


def test_tree_rl_of_an_even_tree_by_the_level():
    """Two pieces from the prompt, and two from the end of each: four leaves.

    A first piece has two leaves below. Of a leaf's return less the mean of the three others', one of which shares the
    piece, 1 - 1/3 depends on it; twice that by √2, for two pieces of weight 1/2: 2√2/3. At a last piece the leaf's own
    value holds its return once, and that of the first piece 1/2 - 1/6 of it: 2 - 1/3.
    """
    wanted = sum(2 * math.sqrt(2) / 3 * by_depth(POLICY, EXACT, d) for d in (0, 1)) + 5 / 3 * by_depth(
        POLICY, EXACT, 2
    )
    assert expected_gradient(lambda c: even(POLICY, c, 2, 2), "tree_rl") == pytest.approx(wanted, abs=1e-9)


def test_dividing_by_the_length_is_biased_by_what_the_lengths_are():
    """Leave-one-out returns by 1/length: the others' mean is independent of a chain, and no longer cancels."""
    exact, value = RAGGED.exact_gradient(), RAGGED.value(())
    config = AdvantageConfig(method="rloo", gamma=1, lam=1, normalise="sequences")
    wanted, found = np.zeros_like(exact), np.zeros_like(exact)
    for chance, tree in all_pairs():
        found += chance * RAGGED.surrogate_gradient(ADVANTAGES["rloo"](tree, config))
        for leaf in tree.leaves():  # each of the two has half of the weight
            ids = tuple(tree.completion_ids(leaf))
            wanted += chance / 2 * ((ids in RAGGED.right) - value) / len(ids) * sum(directions(RAGGED, ids))
    assert found == pytest.approx(wanted, abs=1e-9)
    assert np.abs(found - exact).max() > 0.02 * np.abs(exact).max()


def all_pairs() -> list[tuple[float, Tree]]:
    return [(chance, tree) for chance, tree in all_trees("every_step", "none", True) if len(tree.nodes) == 3]


def directions(policy: Tabular, ids: tuple[int, ...]) -> list[np.ndarray]:
    """Per token d log p(token) / d logits."""
    found = []
    for k, token in enumerate(ids):
        own = {p: np.zeros_like(x) for p, x in policy.logits.items()}
        own[ids[:k]] = -policy.probabilities(ids[:k])
        own[ids[:k]][token] += 1
        found.append(policy.flat(own))
    return found


class Leaf:
    """A trajectory of a tree, as text: its tokens, outcome, the state of every token, and its share of the draws."""

    def __init__(self, tree: Tree, leaf: int, policy: Tabular):
        self.ids = tuple(tree.completion_ids(leaf))
        self.right = float(self.ids in policy.right)
        self.places = [(node, i) for node, _, end in tree.path(leaf)[1:] for i in range(end)]
        self.weight = 1.0
        self.begins = []  # of its segments, in tokens
        for k, (node, i) in enumerate(self.places):
            state = (node, i) if i else (tree.nodes[node].parent, tree.nodes[node].offset)
            draws = sum((n.parent, n.offset) == state for n in tree.nodes[1:])
            draws += state[0] != ROOT and state[1] < len(tree.nodes[state[0]].token_ids)
            self.weight /= draws
            if draws > 1 or k == 0:
                self.begins.append(k)

    def segment(self, k: int) -> tuple[int, int]:
        return self.places[self.begins[k]]


Oracle = Callable[[list[Leaf]], list[list[float]]]


def grpo(leaves: list[Leaf]) -> list[list[float]]:
    mean, deviation = weighted([x.right for x in leaves], [x.weight for x in leaves])
    return [[(x.right - mean) / deviation] * len(x.ids) for x in leaves]


def dr_grpo(leaves: list[Leaf]) -> list[list[float]]:
    mean = sum(x.weight * x.right for x in leaves)
    return [[x.right - mean] * len(x.ids) for x in leaves]


def grpo_process(leaves: list[Leaf]) -> list[list[float]]:
    rewards = [[0.0] * (len(x.ids) - 1) + [x.right] for x in leaves]
    mean, deviation = weighted(
        [r for rs in rewards for r in rs],
        [x.weight for x, rs in zip(leaves, rewards, strict=True) for _ in rs],
    )
    return [[sum((r - mean) / deviation for r in rs[k:]) for k in range(len(rs))] for rs in rewards]


def weighted(values: list[float], weights: list[float]) -> tuple[float, float]:
    total, n = sum(weights), len(values)
    mean = sum(w * v for w, v in zip(weights, values, strict=True)) / total
    spread = sum(w * (v - mean) ** 2 for w, v in zip(weights, values, strict=True)) / total
    return mean, math.sqrt(spread * n / (n - 1)) + EPSILON


def tree_rl(leaves: list[Leaf]) -> list[list[float]]:
    """By the paper's own words: leave-one-out returns, their means below a node, global plus local over √(leaves)."""
    total, n = sum(x.right for x in leaves), len(leaves)
    own = [x.right - (total - x.right) / (n - 1) for x in leaves]

    def value(segment: tuple[int, int]) -> tuple[float, int]:
        below = [v for x, v in zip(leaves, own, strict=True) if segment in x.places]
        return sum(below) / len(below), len(below)

    found = []
    for x in leaves:
        advantages, parent = [0.0] * len(x.ids), 0.0
        for k, begin in enumerate(x.begins):
            here, num = value(x.segment(k))
            end = x.begins[k + 1] if k + 1 < len(x.begins) else len(x.ids)
            advantages[begin:end] = [((here - 0.0) + (here - parent)) / math.sqrt(num)] * (end - begin)
            parent = here
        found.append(advantages)
    return found


ORACLES: dict[str, tuple[Oracle, bool]] = {  # and whether every leaf weighs the same
    "grpo": (grpo, False),
    "dr_grpo": (dr_grpo, False),
    "grpo_process": (grpo_process, False),
    "tree_rl": (tree_rl, True),
}


@pytest.mark.parametrize("shape", ["one", "two children", "again"])
@pytest.mark.parametrize("where", RULES)
@pytest.mark.parametrize("method", ORACLES)
def test_under_the_real_rules_the_published_formula_in_expectation(method, where, shape):
    oracle, is_equal = ORACLES[method]
    wanted, branched = np.zeros_like(RAGGED.exact_gradient()), 0
    for chance, tree in all_trees(where, shape, True):
        leaves = [Leaf(tree, leaf, RAGGED) for leaf in tree.leaves()]
        branched += len(leaves) > 2
        assert sum(x.weight for x in leaves) == pytest.approx(1)
        for x, advantages in zip(leaves, oracle(leaves), strict=True):
            weight = 1 / len(leaves) if is_equal else x.weight
            for a, direction in zip(advantages, directions(RAGGED, x.ids), strict=True):
                wanted += chance * weight * a * direction
    assert branched
    assert under_a_rule(method, where, shape, is_ragged=True) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("shape", ["one", "two", "again", "two children"])
@pytest.mark.parametrize("where", RULES)
def test_a_mean_of_a_tree_costs_what_its_leaves_share(where, shape):
    """dr_grpo's mean is biased by nothing but the tokens that a trajectory shares with those in its mean, itself included.

    The others were drawn by rules of the prefix, so that past the shared tokens their outcome says nothing of it.
    """
    exact = RAGGED.exact_gradient()
    wanted = exact.copy()
    for chance, tree in all_trees(where, shape, True):
        leaves = [Leaf(tree, leaf, RAGGED) for leaf in tree.leaves()]
        for x in leaves:
            each = directions(RAGGED, x.ids)
            for other in leaves:
                shared = sum(place in other.places for place in x.places)
                if other.right and shared:
                    wanted -= chance * x.weight * other.weight * sum(each[:shared])
    assert under_a_rule("dr_grpo", where, shape, is_ragged=True) == pytest.approx(wanted, abs=1e-9)
    assert np.abs(wanted - exact).max() > 0.1 * np.abs(exact).max()
