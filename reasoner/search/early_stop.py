"""Votes that stop early: sampling ends once the leading answer is decided, and doubtful chains are cut off.

Everything goes in waves over all problems, so what is drawn depends on the votes alone, not on time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from reasoner.search.choose import PickConfig, by_confident_votes, tally
from reasoner.search.confidence import FREE, along, lowest_group
from reasoner.search.grow import Branch
from reasoner.search.method import (
    INDEPENDENT,
    Choice,
    Sampled,
    Tools,
    choice_among,
    classes_of,
    extend,
    from_end,
    from_root,
    has_room,
    is_finished,
)
from reasoner.tree import Tree

ALL_VOTE = PickConfig.model_validate({"keep": 1.0})


class EarlyStop(Sampled):
    """Self-consistency that stops once the vote is decided."""

    name: Literal["early_stop"]
    num_samples: int = Field(16, ge=1, description="most answers per problem")
    first: int = Field(3, ge=1, description="answers before the first decision")
    wave: int = Field(1, ge=1, description="answers drawn between decisions; more are fewer, fuller batches")
    stop_at: float = Field(
        0.93,
        gt=0.5,
        le=1,
        description="probability that the leader beats the runner-up at which to stop; three equal answers have 15/16",
    )


class DeepConfOnline(Sampled):
    """Self-consistency in which chains that fall below the confidence of the first ones are cut off."""

    name: Literal["deepconf_online"]
    num_samples: int = Field(16, ge=1, description="most chains per problem")
    first: int = Field(4, ge=1, description="whole chains that set the bar")
    wave: int = Field(4, ge=1, description="chains started between decisions")
    keep: float = Field(0.9, gt=0, le=1, description="share of the first chains that passes the bar")
    stop_at: float = Field(0.95, gt=0, le=1, description="share of the vote at which to stop")
    window: int = Field(16, ge=1, description="tokens in a group")
    chunk: int = Field(16, ge=1, description="tokens decoded between looks at the confidence")
    measure: Literal["negentropy", "logprob"] = Field(
        "negentropy", description="confidence of a token, out of what the engine reports with it"
    )


def lead_probability(first: int, second: int) -> float:
    """P(p > 1/2) of the leader's true share against the runner-up, under Beta(first + 1, second + 1).

    Aggarwal et al. 2023, "Let's Sample Step by Step: Adaptive-Consistency", section 3. Exact: a tail of the
    binomial of first + second + 1 fair tosses.
    """
    n = first + second + 1
    return sum(math.comb(n, j) for j in range(first + 1)) / 2**n


def lead(classes: Sequence[int | None]) -> tuple[int, int]:
    """Votes of the leading answer and of the runner-up."""
    votes = sorted(tally(classes, [1.0] * len(classes)).values(), reverse=True)
    first, second = (int(v) for v in [*votes, 0.0, 0.0][:2])
    return first, second


def early_stop(trees: Sequence[Tree], tools: Tools, config: EarlyStop) -> list[Choice]:
    """Majority over as many answers as the decision takes: the same draws as `majority` makes, only fewer."""
    leaves: list[list[int]] = [[] for _ in trees]
    sure = [0.0] * len(trees)
    going = list(range(len(trees)))
    while going:
        num = {
            i: min(config.wave if leaves[i] else config.first, config.num_samples - len(leaves[i]))
            for i in going
        }
        new = extend(
            [trees[i] for i in going], [from_root(trees[i], num[i]) for i in going], tools, config.sampling
        )
        for i, nodes in zip(going, new, strict=True):
            leaves[i] += nodes
            _, classes = classes_of(trees[i], leaves[i], tools)
            first, second = lead(classes)
            left = config.num_samples - len(leaves[i])
            sure[i] = 1.0 if first - second > left else lead_probability(first, second)
        going = [i for i in going if sure[i] < config.stop_at and len(leaves[i]) < config.num_samples]
        tools.on_progress(len(trees) - len(going), len(trees))
    return [voted(t, of_tree, s, tools) for t, of_tree, s in zip(trees, leaves, sure, strict=True)]


def voted(tree: Tree, leaves: Sequence[int], confidence: float, tools: Tools) -> Choice:
    """The majority's choice among leaves, spoken by its first supporter."""
    _, classes = classes_of(tree, leaves, tools)
    totals = tally(classes, [1.0] * len(classes))
    index = classes.index(max(totals, key=lambda c: totals[c])) if totals else 0  # type: ignore[arg-type]
    return choice_among(tree, leaves, [1.0] * len(leaves), index, confidence, tools, INDEPENDENT)


def deepconf_online(trees: Sequence[Tree], tools: Tools, config: DeepConfOnline) -> list[Choice]:
    """Fu et al. 2025, "Deep Think with Confidence", section 3.3, in waves of chains that grow chunk by chunk.

    The bar is the quantile 1 - keep of the least group confidence of the first chains; what falls below it is
    cut off and does not vote. Confidence here is what the engine reports with each token (by default the
    negative entropy), where the paper takes the mean log-probability of the most probable tokens.
    """

    def least(tree: Tree, node: int) -> float:
        return lowest_group(along(tree, node, lambda n: FREE[config.measure](tree, n)), config.window)

    new = extend(trees, [from_root(t, config.first) for t in trees], tools, config.sampling)
    bars = [
        sorted(least(t, n) for n in nodes)[math.floor((1 - config.keep) * len(nodes))]
        for t, nodes in zip(trees, new, strict=True)
    ]
    leaves = [list(nodes) for nodes in new]
    started = [config.first] * len(trees)
    going = [i for i in range(len(trees)) if not _agreed(trees[i], leaves[i], least, tools, config)]
    while going := [i for i in going if started[i] < config.num_samples]:
        num = {i: min(config.wave, config.num_samples - started[i]) for i in going}
        chains = _chunked([trees[i] for i in going], [num[i] for i in going],
                          [bars[i] for i in going], least, tools, config)  # fmt: skip
        for i, ended in zip(going, chains, strict=True):
            leaves[i] += ended
            started[i] += num[i]
        going = [i for i in going if not _agreed(trees[i], leaves[i], least, tools, config)]
        tools.on_progress(len(trees) - len(going), len(trees))
    return [
        _confident_choice(t, of_tree, least, tools, config) for t, of_tree in zip(trees, leaves, strict=True)
    ]


def _chunked(
    trees: list[Tree], num: list[int], bars: list[float], least, tools: Tools, config: DeepConfOnline
) -> list[list[int]]:
    """Grow `num` further chains per tree by chunks; those that end without falling below the bar."""
    ended: list[list[int]] = [[] for _ in trees]
    branches: list[list[Branch]] = [from_root(t, k) for t, k in zip(trees, num, strict=True)]
    length = 0
    while any(branches):
        length = min(length + config.chunk, tools.growth.max_tokens)
        new = extend(trees, branches, tools, config.sampling, max_tokens=length)
        branches = [[] for _ in trees]
        for i, nodes in enumerate(new):
            for node in nodes:
                if least(trees[i], node) < bars[i]:
                    continue
                if is_finished(trees[i], node) or not has_room(trees[i], node, tools):
                    ended[i].append(node)
                else:
                    branches[i] += from_end(trees[i], node, 1, INDEPENDENT)
    return ended


def _confident_choice(tree: Tree, leaves: list[int], least, tools: Tools, config: DeepConfOnline) -> Choice:
    _, classes = classes_of(tree, leaves, tools)
    scores = [least(tree, leaf) for leaf in leaves]
    pick = by_confident_votes(classes, scores, ALL_VOTE)
    return choice_among(tree, leaves, [1.0] * len(leaves), pick.index, pick.confidence, tools, INDEPENDENT)


def _agreed(tree: Tree, leaves: list[int], least, tools: Tools, config: DeepConfOnline) -> bool:
    """Whether the confident votes agree, or there is no answer to wait for."""
    return _confident_choice(tree, leaves, least, tools, config).confidence >= config.stop_at
