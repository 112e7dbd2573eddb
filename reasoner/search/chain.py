"""Trees without inner branches: one chain, or a fan of n chains from the prompt (best-of-n, votes)."""

from __future__ import annotations

from reasoner.search.grow import Branch, BranchPolicy
from reasoner.tree import ROOT, Tree


def fan(num_chains: int) -> BranchPolicy:
    """`num_chains` independent completions of the prompt; a chain is a fan of one."""

    def policy(tree: Tree, wave: int) -> list[Branch]:
        offset = len(tree.nodes[ROOT].token_ids)
        return [Branch(ROOT, offset)] * num_chains if wave == 0 else []

    return policy
