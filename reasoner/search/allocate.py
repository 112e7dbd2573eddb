"""Adaptive allocation: a fixed number of samples over all problems, more of them where the vote is open.

Difficulty is measured by the votes so far, whose samples count like all others: nothing is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from reasoner.search.early_stop import lead, lead_probability, voted
from reasoner.search.method import Choice, Sampled, Tools, classes_of, extend, from_root
from reasoner.tree import Tree


class Adaptive(Sampled):
    """Votes, with the samples given to the problems that need them."""

    name: Literal["adaptive"]
    num_samples: int = Field(8, ge=1, description="answers per problem on average")
    first: int = Field(2, ge=1, description="answers that every problem gets")
    wave: int = Field(2, ge=1, description="answers given to a problem at a time")
    most: int = Field(32, ge=1, description="most answers to one problem")


def adaptive(trees: Sequence[Tree], tools: Tools, config: Adaptive) -> list[Choice]:
    """Majority; each round gives a wave to the quarter of the problems whose leader is least sure.

    Order and ties follow the problems' ids, so the same set gives the same answers in any order.
    """
    total = config.num_samples * len(trees)
    first = min(config.first, config.num_samples)
    leaves = extend(trees, [from_root(t, first) for t in trees], tools, config.sampling)
    sure = [_sureness(t, of_tree, tools) for t, of_tree in zip(trees, leaves, strict=True)]
    spent = first * len(trees)
    while True:
        can = [i for i in range(len(trees)) if sure[i] < 0.99 and len(leaves[i]) + config.wave <= config.most]
        can.sort(key=lambda i: (sure[i], trees[i].problem.id))
        chosen = can[: min(-(-len(trees) // 4), (total - spent) // config.wave)]
        if not chosen:
            break
        branches = [from_root(trees[i], config.wave) for i in chosen]
        new = extend([trees[i] for i in chosen], branches, tools, config.sampling)
        for i, nodes in zip(chosen, new, strict=True):
            leaves[i] = [*leaves[i], *nodes]
            sure[i] = _sureness(trees[i], leaves[i], tools)
        spent += config.wave * len(chosen)
        tools.on_progress(spent, total)
    return [voted(t, of_tree, s, tools) for t, of_tree, s in zip(trees, leaves, sure, strict=True)]


def _sureness(tree: Tree, leaves: Sequence[int], tools: Tools) -> float:
    _, classes = classes_of(tree, leaves, tools)
    return lead_probability(*lead(classes))
