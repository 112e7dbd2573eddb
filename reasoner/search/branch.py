"""Branch in the middle of finished chains: at every step end, or where the next token is least certain."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from reasoner.config import Config
from reasoner.registry import lookup
from reasoner.search.grow import Branch, BranchPolicy
from reasoner.tree import ROOT, Tree


class BranchConfig(Config):
    """A tree of chains: roots first, then continuations from states inside what has come back."""

    num_roots: int = Field(4, ge=1, description="independent chains from the prompt")
    where: str = Field("entropy", description="which inner states branch: every_step | entropy")
    num_points: int = Field(
        2, ge=0, description="branch points per chain; of every_step, the most that are used"
    )
    num_children: int = Field(2, ge=1, description="continuations from each branch point")
    num_rounds: int = Field(1, ge=0, description="how often the newest chains are branched again")


def tree_of(config: BranchConfig) -> BranchPolicy:
    """Wave 0 draws the roots; each further wave branches the chains of the wave before.

    The state is chosen without looking at what the chain became after it, so each continuation is an
    independent draw from exactly that state.
    """
    choose = lookup(WHERE, config.where, "branch rule")

    def policy(tree: Tree, wave: int) -> list[Branch]:
        if wave == 0:
            return [Branch(ROOT, len(tree.nodes[ROOT].token_ids))] * config.num_roots
        if wave > config.num_rounds:
            return []
        depth = _depths(tree)
        newest = [i for i in range(1, len(tree.nodes)) if depth[i] == wave]
        return [
            Branch(node, offset)
            for node in newest
            for offset in choose(tree, node, config.num_points)
            for _ in range(config.num_children)
        ]

    return policy


def _depths(tree: Tree) -> list[int]:
    depths = [0]
    for node in tree.nodes[1:]:
        depths.append(depths[node.parent] + 1)
    return depths


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


WHERE: dict[str, Callable[[Tree, int, int], list[int]]] = {
    "every_step": every_step,
    "entropy": highest_entropy,
}
