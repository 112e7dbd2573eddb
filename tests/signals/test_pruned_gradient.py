"""Live pruning by the repository's rules leaves the expected gradient exact, with every method that a stage allows it with.

Every tree that can be drawn is enumerated with its chance, what pruning's lottery says included.
"""

from dataclasses import replace
from functools import cache
from typing import cast

import numpy as np
import pytest
from tabular import Choose, ChoosingEngine, Tabular, every, new_tree

from reasoner.engine.protocol import Engine
from reasoner.search import prune
from reasoner.search.branch import BranchConfig, tree_of
from reasoner.search.grow import Growth, StepStop, grow
from reasoner.search.places import Place
from reasoner.search.prune import PruneConfig, pruned
from reasoner.signals.advantages import ADVANTAGES
from reasoner.signals.backup import path_weights
from reasoner.signals.credit import AdvantageConfig
from reasoner.trainers.pruning import UNBIASED
from reasoner.tree import ROOT, Tree
from tests.signals.test_exact_gradient import first_chains_branch_too
from verifiers import Verdict

__all__ = ["first_chains_branch_too"]  # a fixture of this module as well

SHORT = Tabular.random(depth=2, num_actions=2, seed=5)
LONG = Tabular.random(depth=3, num_actions=2, seed=1)  # for a loop, which takes two tokens before a branch
PRUNED = {
    "dead_end": {},
    "low_score": {"min_score": 0.5},
    "loop": {"repeats": 2, "loop_tokens": 2},
    "unlikely": {"min_value": 0.5, "confidence": 0.7},  # one wrong chain is enough
    "duplicate": {},
    "solved": {"solved_enough": 1},
}
KEEP = 0.3


def policy_of(rule: str) -> Tabular:
    return LONG if rule == "loop" else SHORT


def before_the_last(place: Place, config: BranchConfig) -> bool:
    """A branch rule: only the last token is drawn again, so that there are few trees."""
    return len(place.completion_ids) == LONG.depth - 1


def look(policy: Tabular, tree: Tree) -> None:
    """Verdicts, and a PRM that is a function of the prefix, and wrong."""
    for leaf in tree.leaves():
        is_right = tuple(tree.completion_ids(leaf)) in policy.right
        tree.verdicts[leaf] = Verdict("correct", "ok") if is_right else Verdict("incorrect", "wrong")
    of = {i: [float(token) for token in n.token_ids] for i, n in enumerate(tree.nodes) if i != ROOT}
    tree.scores["prm"] = {ROOT: [0.5], **of}


def is_dead_end(tree: Tree, node: int, offset: int) -> bool:
    """A verifier that is wrong as often as not."""
    return tree.completion_ids(node, offset)[-1:] == [1]


def draw(choose: Choose, rule: str, num_roots: int) -> Tree:
    config = PruneConfig(rules=[rule], continue_share=KEEP, **PRUNED[rule])
    tree, policy = new_tree(), policy_of(rule)
    where = f"{__name__}:before_the_last" if rule == "loop" else "every_step"
    branch = BranchConfig(num_roots=num_roots, where=where, num_points=1, num_children=1)
    growth = Growth(
        lambda ids, *_: list(range(len(ids))), policy.depth, step_stop=StepStop(frozenset({0, 1}))
    )
    lots = (-(1 << 63), (1 << 63) - 1)  # the keys of a place that draw the lowest and the highest number
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prune, "place_key", lambda *place: lots[choose([KEEP, 1 - KEEP])])
        branches = pruned(tree_of(branch, growth), config, is_dead_end=is_dead_end)
        engine = cast(Engine, ChoosingEngine(policy, choose))
        grow([tree], engine, branches, growth, observe=lambda trees: look(policy, trees[0]))
    return tree


@cache
def all_trees(rule: str, num_roots: int) -> tuple[tuple[float, Tree], ...]:
    found = tuple(every(lambda choose: draw(choose, rule, num_roots)))
    assert sum(chance for chance, _ in found) == pytest.approx(1)
    assert any(node.is_pruned for _, tree in found for node in tree.nodes)
    for _, tree in found:
        policy_of(rule).score_exactly(tree)
        shifted = {i: [0.3 + 0.5 * v for v in values] for i, values in tree.scores["value"].items()}
        tree.scores["pass_rate"] = {ROOT: [0.2]}  # a prediction that is wrong
        tree.scores["value"] = tree.scores["token_value"] = shifted  # a critic that is wrong
    return found


def off(method: str, rule: str, num_roots: int = 2) -> float:
    """How far the expected gradient is from the exact one, at most."""
    config = AdvantageConfig(method=method, gamma=1, lam=1)
    policy, trees = policy_of(rule), all_trees(rule, num_roots)
    found = sum(c * policy.surrogate_gradient(ADVANTAGES[method](tree, config)) for c, tree in trees)
    return float(np.abs(found - policy.exact_gradient()).max())


@pytest.mark.parametrize(("rule", "method"), [(r, m) for r in PRUNED for m in UNBIASED[r]])
def test_what_is_allowed_is_unbiased(rule, method):
    assert off(method, rule) < 1e-9


BIASED = [
    ("unlikely", "sibling_loo"), ("unlikely", "vineppo"), ("solved", "rloo"), ("solved", "shrunk"),
    pytest.param("duplicate", "rloo", marks=pytest.mark.slow),  # takes a third chain, whose share of the baseline moves
]  # fmt: skip


@pytest.mark.parametrize(("rule", "method"), BIASED)
def test_what_is_refused_would_bias(rule, method):
    assert method not in UNBIASED[rule]
    assert off(method, rule, 3 if rule == "duplicate" else 2) > 1e-3


@pytest.mark.parametrize("rule", ["dead_end", "unlikely"])
def test_without_its_propensity_the_gradient_is_biased(rule, monkeypatch):
    monkeypatch.setattr("reasoner.signals.backup.path_weights", _unweighted)
    assert off("rloo", rule) > 1e-3


def _unweighted(tree: Tree) -> list[np.ndarray]:
    nodes = [replace(node, propensity=1.0) for node in tree.nodes]
    return path_weights(Tree(tree.problem, nodes))
