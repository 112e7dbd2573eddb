"""Answer greedily, and try again where the model is unsure of its own answer; CoT-decoding over first tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from reasoner.engine.protocol import Sampling
from reasoner.search.choose import PLAIN, by_weighted_votes
from reasoner.search.confidence import FREE, along, answer_confidence, path_measure
from reasoner.search.method import (
    INDEPENDENT,
    TREE,
    Choice,
    Sampled,
    Tools,
    choice_among,
    classes_of,
    extend,
    force,
    from_end,
    from_root,
    need,
)
from reasoner.tree import ROOT, Tree


class Retry(Sampled):
    """One greedy answer; sampled ones follow while the model is unsure."""

    name: Literal["retry"]
    num_samples: int = Field(4, ge=1, description="most answers, the greedy one included")
    sure_at: float = Field(
        0.9, gt=0, le=1, description="mean probability of the answer's tokens that counts as sure"
    )


class CotDecoding(Sampled):
    """Greedy continuations of the k most probable first tokens, weighted by the margin on the answer's tokens."""

    name: Literal["cot_decoding"]
    num_samples: int = Field(10, ge=1, description="first tokens to branch into")
    temperature: float = Field(0.0, ge=0, le=0, description="always 0 after the first token")


def retry(trees: Sequence[Tree], tools: Tools, config: Retry) -> list[Choice]:
    """The answer of which the model is surest, among as many tries as it takes to be sure."""
    leaves: list[list[int]] = [[] for _ in trees]
    sure: list[list[float]] = [[] for _ in trees]
    going = list(range(len(trees)))
    while going:
        is_first = not leaves[going[0]]
        sampling = Sampling(0.0) if is_first else config.sampling
        new = extend([trees[i] for i in going], [from_root(trees[i], 1) for i in going], tools, sampling)
        for i, (leaf,) in zip(going, new, strict=True):
            leaves[i].append(leaf)
            sure[i].append(answer_probability(trees[i], leaf, tools))
        going = [i for i in going if max(sure[i]) < config.sure_at and len(leaves[i]) < config.num_samples]
        tools.on_progress(len(trees) - len(going), len(trees))
    return [
        choice_among(t, of_tree, s, s.index(max(s)), max(s), tools, INDEPENDENT)
        for t, of_tree, s in zip(trees, leaves, sure, strict=True)
    ]


def answer_probability(tree: Tree, leaf: int, tools: Tools) -> float:
    """Geometric mean of the probabilities of the final answer's tokens; 0 where there is no answer."""
    values = along(tree, leaf, lambda node: FREE["logprob"](tree, node))
    return math.exp(answer_confidence(tree, leaf, values, tools))


def cot_decoding(trees: Sequence[Tree], tools: Tools, config: CotDecoding) -> list[Choice]:
    """Wang and Zhou 2024, "Chain-of-Thought Reasoning Without Prompting", section 2: the answers' margins are summed.

    The margin of a token is the probability of the most probable one less that of the second.
    """
    first_tokens = need(tools.first_tokens, "first_tokens", config.name)
    measure = need(tools.measure, "measure", config.name)
    prompts = [list(t.nodes[ROOT].token_ids) for t in trees]
    branches = []
    for tree, tokens in zip(trees, first_tokens(prompts, config.num_samples), strict=True):
        starts = [force(tree, ROOT, len(tree.nodes[ROOT].token_ids), [t], tools, "first") for t in tokens]
        branches.append([b for start in starts for b in from_end(tree, start)])
    new = extend(trees, branches, tools, config.sampling)
    assert measure is not None
    margins = path_measure(trees, "margin", tools)
    choices = []
    for tree, leaves, of_tree in zip(trees, new, margins, strict=True):
        weights = [max(0.0, answer_confidence(tree, leaf, of_tree[leaf], tools)) for leaf in leaves]
        _, classes = classes_of(tree, leaves, tools)
        pick = by_weighted_votes(classes, weights, PLAIN)
        choices.append(choice_among(tree, leaves, weights, pick.index, pick.confidence, tools, TREE))
    return choices
