"""Branch in the middle of finished chains: at every step end, where the next token is least certain, or led by a PRM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from reasoner.config import Config
from reasoner.registry import UserError, lookup
from reasoner.search.budgets import node_depths
from reasoner.search.grow import Branch, BranchPolicy
from reasoner.tree import ROOT, Tree


class BranchConfig(Config):
    """A tree of chains: roots first, then continuations from states inside what has come back."""

    policy: Literal["branch"] = Field(default="branch", description="how trees branch")
    num_roots: int = Field(default=4, ge=1, description="independent chains from the prompt")
    where: str = Field(
        default="entropy",
        description="which inner states branch: every_step | entropy | score_falls | score_unsure",
    )
    num_points: int = Field(
        default=2, ge=0, description="branch points per chain; of every_step, the most that are used"
    )
    num_children: int = Field(default=2, ge=1, description="continuations from each branch point")
    num_rounds: int = Field(default=1, ge=0, description="how often the newest chains are branched again")


def tree_of(config: BranchConfig) -> BranchPolicy:
    """Wave 0 draws the roots; each further wave branches the chains of the wave before.

    Each continuation is an independent draw from exactly its state. By the first two rules the state is chosen
    without looking at what the chain became after it; led by scores the rest of the chain is no fair draw any
    more, and only the new continuations tell a state's value (tree.counts leaves the rest out).
    """
    choose = lookup(WHERE, config.where, "branch rule")

    def policy(tree: Tree, wave: int) -> list[Branch]:
        if wave == 0:
            return [Branch(ROOT, len(tree.nodes[ROOT].token_ids))] * config.num_roots
        if wave > config.num_rounds:
            return []
        depth = node_depths(tree)
        newest = [i for i in range(1, len(tree.nodes)) if depth[i] == wave]
        return [
            Branch(node, offset)
            for node in newest
            for offset in choose(tree, node, config.num_points)
            for _ in range(config.num_children)
        ]

    return policy


def _inner_states(tree: Tree, node: int) -> list[int]:
    """Offsets right after the node's step ends, but for the one that ends the chain."""
    n = tree.nodes[node]
    return [i + 1 for i in n.step_ends if i + 1 < len(n.token_ids)]


def every_step(tree: Tree, node: int, num_points: int) -> list[int]:
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


WHERE: dict[str, Callable[[Tree, int, int], list[int]]] = {
    "every_step": every_step,
    "entropy": highest_entropy,
    "score_falls": score_falls,
    "score_unsure": score_unsure,
}
