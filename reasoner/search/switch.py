"""Monte-Carlo continue-or-switch: rollouts from an intermediate step decide whether to go on from it or leave it.

The value of a state is the share of rollouts from it that a judge accepts, as a Beta posterior. A step is
taken where its posterior beats that of the state before it; else another first step of that state is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from reasoner.config import Entry
from reasoner.registry import lookup
from reasoner.search.choose import tally
from reasoner.search.grow import Branch
from reasoner.search.method import (
    TREE,
    AggregateName,
    Choice,
    Sampled,
    Tools,
    choice_among,
    classes_of,
    extend,
    is_finished,
    need,
    prm_score,
)
from reasoner.tree import ROOT, Tree


class Switch(Sampled):
    """Walk step by step, by rollouts from each step."""

    name: Literal["switch"]
    num_rollouts: int = Field(4, ge=1, description="rollouts from each judged state")
    num_samples: int = Field(24, ge=1, description="most rollouts per problem, over all states")
    go_on_at: float = Field(
        0.5, ge=0, le=1, description="probability that the next state is the better one at which it is taken"
    )
    judge: Annotated[str, Entry("judge", "reasoner.search.switch:JUDGES")] = Field(
        "agreement", description="what accepts a rollout: agreement | orm | prm | verifier"
    )
    aggregate: AggregateName = Field("last", description="prm: from step scores to one")


@dataclass
class Walk:
    """Where the walk through one tree stands: the state, its rollouts, and first steps that were left already."""

    tree: Tree
    node: int
    offset: int
    here: list[int] = field(default_factory=list)
    left: set[tuple[int, ...]] = field(default_factory=set)
    rollouts: list[int] = field(default_factory=list)
    candidate: tuple[int, int, tuple[int, ...]] | None = None
    is_over: bool = False


def beats(a: tuple[float, float], b: tuple[float, float], num_points: int = 512) -> float:
    """P(x > y) for x ~ Beta(a[0] + 1, a[1] + 1), y ~ Beta(b[0] + 1, b[1] + 1): successes and failures, fractions allowed."""
    p = (np.arange(num_points) + 0.5) / num_points
    density_a, density_b = (_density(p, *counts) for counts in (a, b))
    below_b = np.cumsum(density_b) - density_b / 2
    return float((density_a * below_b).sum())


def _density(p: np.ndarray, successes: float, failures: float) -> np.ndarray:
    log_density = successes * np.log(p) + failures * np.log1p(-p)
    density = np.exp(log_density - log_density.max())
    return density / density.sum()


def switch(trees: Sequence[Tree], tools: Tools, config: Switch) -> list[Choice]:
    """The answer with the most accepted rollouts, wherever in the tree they ended; these are leaves of a tree."""
    judge = lookup(JUDGES, config.judge, "judge")
    walks = [Walk(t, ROOT, len(t.nodes[ROOT].token_ids)) for t in trees]
    _roll_out(walks, [(w.node, w.offset) for w in walks], tools, config)
    for walk in walks:
        walk.here = list(walk.rollouts)
    while True:
        for walk in walks:
            _next_candidate(walk, config)
        going = [w for w in walks if not w.is_over]
        tools.on_progress(len(walks) - len(going), len(walks))
        if not going:
            break
        before = [len(w.rollouts) for w in going]
        _roll_out(going, [w.candidate[:2] for w in going if w.candidate], tools, config)
        accepted = judge([w.tree for w in going], [w.rollouts for w in going], tools, config)
        for walk, start, scores in zip(going, before, accepted, strict=True):
            _decide(walk, walk.rollouts[start:], dict(zip(walk.rollouts, scores, strict=True)), config)
    accepted = judge(trees, [w.rollouts for w in walks], tools, config)
    return [_best_supported(w.tree, w.rollouts, s, tools) for w, s in zip(walks, accepted, strict=True)]


def _roll_out(walks: Sequence[Walk], states: Sequence[tuple[int, int]], tools: Tools, config: Switch) -> None:
    branches = []
    for walk, (node, offset) in zip(walks, states, strict=True):
        num = min(config.num_rollouts, config.num_samples - len(walk.rollouts))
        branches.append([Branch(node, offset)] * num)
    new = extend([w.tree for w in walks], branches, tools, config.sampling)
    for walk, nodes in zip(walks, new, strict=True):
        walk.rollouts += nodes


def _next_candidate(walk: Walk, config: Switch) -> None:
    """The first step of the earliest rollout from here that was not left yet, where it leads to an inner state."""
    walk.candidate = None
    for rollout in walk.here:
        node = walk.tree.nodes[rollout]
        ends = [e + 1 for e in node.step_ends if e + 1 < len(node.token_ids)]
        if ends and node.token_ids[: ends[0]] not in walk.left:
            walk.candidate = (rollout, ends[0], node.token_ids[: ends[0]])
            break
    walk.is_over = walk.candidate is None or len(walk.rollouts) >= config.num_samples


def _decide(walk: Walk, fresh: list[int], accepted: dict[int, float], config: Switch) -> None:
    """Go on to the candidate, or leave it. The rollout that it was cut from is one more draw from it."""
    assert walk.candidate is not None
    rollout, offset, tokens = walk.candidate
    from_there = [*fresh, rollout]
    if beats(_counts(from_there, accepted), _counts(walk.here, accepted)) >= config.go_on_at:
        walk.node, walk.offset, walk.here, walk.left = rollout, offset, fresh, set()
    else:
        walk.left.add(tokens)


def _counts(rollouts: Sequence[int], accepted: dict[int, float]) -> tuple[float, float]:
    good = sum(accepted[r] for r in rollouts)
    return good, len(rollouts) - good


def _best_supported(tree: Tree, leaves: list[int], accepted: list[float], tools: Tools) -> Choice:
    _, classes = classes_of(tree, leaves, tools)
    totals = tally(classes, accepted)
    if not totals or not max(totals.values()):
        return choice_among(tree, leaves, accepted, 0, 0.0, tools, TREE)
    winner = max(totals, key=lambda c: totals[c])
    index = max((i for i, c in enumerate(classes) if c == winner), key=lambda i: (accepted[i], -i))
    return choice_among(tree, leaves, accepted, index, totals[winner] / sum(totals.values()), tools, TREE)


Judge = Callable[[Sequence[Tree], Sequence[list[int]], Tools, Switch], list[list[float]]]


def by_agreement(trees, rollouts, tools: Tools, config: Switch) -> list[list[float]]:
    """The share of the other rollouts with the same answer; 0 without one."""
    found = []
    for tree, leaves in zip(trees, rollouts, strict=True):
        _, classes = classes_of(tree, leaves, tools)
        others = max(len(leaves) - 1, 1)
        found.append([0.0 if c is None else (classes.count(c) - 1) / others for c in classes])
    return found


def by_orm(trees, rollouts, tools: Tools, config: Switch) -> list[list[float]]:
    scores = need(tools.orm, "orm", "switch with judge orm")(trees)
    return [[s[leaf] for leaf in leaves] for s, leaves in zip(scores, rollouts, strict=True)]


def by_prm(trees, rollouts, tools: Tools, config: Switch) -> list[list[float]]:
    need(tools.prm, "prm", "switch with judge prm")(trees)
    return [
        [prm_score(t, leaf, config.aggregate, tools) for leaf in leaves]
        for t, leaves in zip(trees, rollouts, strict=True)
    ]


def by_verifier(trees, rollouts, tools: Tools, config: Switch) -> list[list[float]]:
    """1 where the verifier accepts an ended rollout; for problems whose answers can be checked when asked."""
    need(tools.verify, "a verifier", "switch with judge verifier")(trees)
    return [
        [float(is_finished(t, leaf) and t.verdicts[leaf].status == "correct") for leaf in leaves]
        for t, leaves in zip(trees, rollouts, strict=True)
    ]


JUDGES: dict[str, Judge] = {
    "agreement": by_agreement,
    "orm": by_orm,
    "prm": by_prm,
    "verifier": by_verifier,
}
