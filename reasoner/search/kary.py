"""A full tree: k continuations at the end of every step, level by level."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reasoner.config import Config
from reasoner.search.budgets import node_depths
from reasoner.search.grow import Branch, BranchPolicy
from reasoner.tree import ROOT, Tree


class KaryConfig(Config):
    """The same number of continuations after every step down to a depth; the last level runs to the end."""

    policy: Literal["kary"] = Field(default="kary", description="how trees branch")
    num_children: int = Field(default=4, ge=1, description="continuations of each state")
    depth: int = Field(
        default=4, ge=1, description="levels; num_children ** depth leaves where no chain ends early"
    )


def kary(config: KaryConfig) -> BranchPolicy:
    """Levels of single steps, then of whole continuations: uneven lengths end as leaves of their level."""

    def policy(tree: Tree, wave: int) -> list[Branch]:
        if wave >= config.depth:
            return []
        is_last = wave == config.depth - 1
        if wave == 0:
            ends = [(ROOT, len(tree.nodes[ROOT].token_ids))]
        else:
            depths = node_depths(tree)
            ends = [
                (i, len(n.token_ids))
                for i, n in enumerate(tree.nodes)
                if depths[i] == wave and n.stop_reason == "open"
            ]
        return [
            Branch(node, offset, one_step=not is_last)
            for node, offset in ends
            for _ in range(config.num_children)
        ]

    return policy
