"""Branch in the middle of finished chains: where a rule of the prefix says so, or by a look at the whole chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from reasoner.config import Config, Entry
from reasoner.registry import UserError, lookup
from reasoner.search.budgets import node_depths
from reasoner.search.grow import Branch, BranchPolicy, Growth, place_paths
from reasoner.search.places import RULES, Seen, points
from reasoner.tree import ROOT, Tree


class BranchConfig(Config):
    """A tree of chains: roots first, then continuations from states inside what has come back."""

    policy: Literal["branch"] = Field(default="branch", description="how trees branch")
    num_roots: int = Field(default=4, ge=1, description="independent chains from the prompt")
    where: Annotated[
        str, Entry("branch rule", "reasoner.search.places:RULES", "reasoner.search.branch:WHOLE_CHAIN")
    ] = Field(
        default="entropy",
        description="which inner states branch. By the prefix alone, for policy gradients and all else: entropy (the next "
        "token is less certain than most before it) | every_step (the first num_points step ends) | coin (step ends, by "
        "lot), or module:function. By a look at the whole chain, for search and labels only: spread_steps | "
        "highest_entropy | score_falls | score_unsure",
    )
    num_points: int = Field(default=2, ge=0, description="most branch points per chain")
    num_children: int = Field(default=2, ge=1, description="continuations from each branch point")
    num_rounds: int = Field(default=1, ge=0, description="how often the newest chains are branched again")
    share: float = Field(
        default=0.5, gt=0, le=1, description="of coin: the chance that a step's end branches"
    )


def tree_of(config: BranchConfig, growth: Growth) -> BranchPolicy:
    """Wave 0 draws the roots; each further wave branches the chains of the wave before.

    Each continuation is an independent draw from exactly its state. A rule of the prefix (search/places) is asked
    at each state without being shown what the chain became after it, so that the chain's own rest is one more
    independent draw, and gradients and values may count it. By a rule that looks at the whole chain that rest is no
    fair draw, and only the new continuations tell a state's value (tree.counts leaves the rest out).
    """
    whole_chain = WHOLE_CHAIN.get(config.where)
    rule: Any = lookup({**RULES, **WHOLE_CHAIN}, config.where, "branch rule")

    def chosen(tree: Tree, newest: set[int]) -> list[tuple[int, int]]:
        if whole_chain is not None:
            return [(i, offset) for i in sorted(newest) for offset in whole_chain(tree, i, config.num_points)]
        found, paths, seen = [], place_paths(tree), Seen()
        for i in range(1, len(tree.nodes)):
            if i in newest:
                at = points(tree, i, paths[i], rule, config, growth, seen)
                found += [(i, offset) for offset in at]
            seen.add(tree.nodes[i].entropy)
        return found

    def policy(tree: Tree, wave: int) -> list[Branch]:
        if wave == 0:
            return [Branch(ROOT, len(tree.nodes[ROOT].token_ids))] * config.num_roots
        if wave > config.num_rounds or not config.num_points:
            return []
        depth = node_depths(tree)
        newest = {i for i in range(1, len(tree.nodes)) if depth[i] == wave}
        return [
            Branch(node, offset) for node, offset in chosen(tree, newest) for _ in range(config.num_children)
        ]

    return policy


def check_by_prefix(config: BranchConfig) -> BranchConfig:
    """ValueError for a rule that looks at the whole chain: with it a policy gradient is biased."""
    if config.where in WHOLE_CHAIN:
        raise ValueError(
            f"got where={config.where}, which chooses states by what came after them and biases a policy gradient; "
            f"expected a rule of the prefix alone: {', '.join(RULES)}, or module:function"
        )
    return config


def _inner_states(tree: Tree, node: int) -> list[int]:
    """Offsets right after the node's step ends, but for the one that ends the chain."""
    n = tree.nodes[node]
    return [i + 1 for i in n.step_ends if i + 1 < len(n.token_ids)]


def spread_steps(tree: Tree, node: int, num_points: int) -> list[int]:
    """All step ends, or `num_points` of them evenly spread."""
    states = _inner_states(tree, node)
    if len(states) <= num_points:
        return states
    return [states[int((i + 0.5) * len(states) / num_points)] for i in range(num_points)]


def highest_entropy(tree: Tree, node: int, num_points: int) -> list[int]:
    """The states whose next-token distribution has the highest true entropy (not the surprisal of the token drawn)."""
    entropy = tree.nodes[node].entropy
    states = range(1, len(entropy))
    return sorted(sorted(states, key=lambda i: -entropy[i])[:num_points])


def score_falls(tree: Tree, node: int, num_points: int) -> list[int]:
    """The states before the steps at which the PRM's score falls most: where another continuation may stay right."""
    scores, ends = _scores(tree, node), tree.nodes[node].step_ends
    falls = sorted((scores[j] - scores[j - 1], ends[j - 1] + 1) for j in range(1, len(ends)))
    return sorted(offset for fall, offset in falls[:num_points] if fall < 0)


def score_unsure(tree: Tree, node: int, num_points: int) -> list[int]:
    """The states whose score is nearest to 1/2: where a label tells the PRM most."""
    scores = dict(zip((e + 1 for e in tree.nodes[node].step_ends), _scores(tree, node), strict=True))
    return sorted(sorted(_inner_states(tree, node), key=lambda o: abs(scores[o] - 0.5))[:num_points])


def _scores(tree: Tree, node: int) -> list[float]:
    scores = tree.scores.get("prm", {}).get(node)
    if scores is None:
        raise UserError(
            "branching led by scores needs a PRM and got none; expected one: set prm to the stage that trained it"
        )
    return scores


WHOLE_CHAIN: dict[str, Callable[[Tree, int, int], list[int]]] = {
    "spread_steps": spread_steps,
    "highest_entropy": highest_entropy,
    "score_falls": score_falls,
    "score_unsure": score_unsure,
}
BY_SCORES = ("score_falls", "score_unsure")
