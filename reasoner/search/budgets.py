"""Budgets of a tree in tokens, nodes and depth: a policy around a policy."""

from __future__ import annotations

from pydantic import Field

from reasoner.config import Config
from reasoner.search.grow import Branch, BranchPolicy
from reasoner.tree import Tree


class BudgetConfig(Config):
    """What one tree may cost; a tree stops growing at the first limit that it meets."""

    max_tokens: int | None = Field(
        default=None, ge=1, description="sampled tokens after which a tree starts no further wave of branches"
    )
    max_nodes: int | None = Field(default=None, ge=1, description="most continuations of a tree")
    max_depth: int | None = Field(
        default=None, ge=1, description="most continuations that follow each other on a path"
    )


def within(policy: BranchPolicy, budget: BudgetConfig) -> BranchPolicy:
    """`policy` until the budget is spent.

    Tokens are counted between waves: a wave under way is finished, since a chain cut by a budget would be
    judged as one that failed.
    """

    def limited(tree: Tree, wave: int) -> list[Branch]:
        if budget.max_tokens is not None and tree.num_sampled >= budget.max_tokens:
            return []
        branches = policy(tree, wave)
        if budget.max_depth is not None:
            depths = node_depths(tree)
            branches = [b for b in branches if depths[b.parent] < budget.max_depth]
        if budget.max_nodes is not None:
            branches = branches[: max(0, budget.max_nodes - (len(tree.nodes) - 1))]
        return branches

    return limited


def node_depths(tree: Tree) -> list[int]:
    """Per node how many continuations follow each other from the prompt to it."""
    depths = [0]
    for node in tree.nodes[1:]:
        depths.append(depths[node.parent] + 1)
    return depths
