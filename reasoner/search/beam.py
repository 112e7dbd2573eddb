"""Step-level beam search led by a PRM, and its diverse form of independent subtrees (DVTS)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from reasoner.registry import UserError, lookup
from reasoner.search.choose import PLAIN, by_score, by_weighted_votes
from reasoner.search.method import (
    TREE,
    AggregateName,
    Choice,
    Sampled,
    Tools,
    choice_among,
    classes_of,
    extend,
    from_end,
    has_room,
    is_finished,
    need,
    prm_score,
)
from reasoner.tree import ROOT, Tree


class Beam(Sampled):
    """At each step every kept beam gets `branching` next steps; the best `num_samples / branching` are kept."""

    name: Literal["beam", "dvts"]
    num_samples: int = Field(16, ge=1, description="candidates per step, over all beams")
    branching: int = Field(4, ge=1, description="next steps drawn for each kept beam")
    max_steps: int = Field(40, ge=1, description="most steps of a solution")
    aggregate: AggregateName = Field(
        "last", description="from step scores to a beam's: last | min | product | mean"
    )
    final: Literal["best", "vote"] = Field(
        "vote", description="the best finished beam, or PRM-weighted votes among the finished ones"
    )


class Line(NamedTuple):
    """A kept beam: the node that it ends with, and the subtree that it competes in."""

    node: int
    group: int


def beam(trees: Sequence[Tree], tools: Tools, config: Beam) -> list[Choice]:
    """Beam search; with `name: dvts` each kept beam is a subtree of its own and competes with nobody else.

    Snell et al. 2024, "Scaling LLM Test-Time Compute Optimally", section 5.1; DVTS: Beeching et al. 2024,
    "Scaling test-time compute with open models". Beams that end stay and compete by their score.
    """
    score = need(tools.prm, "prm", config.name)
    lookup(tools.aggregates, config.aggregate, "aggregate")
    num_kept = config.num_samples // config.branching
    if num_kept < 1:
        raise UserError(
            f"{config.name} has num_samples {config.num_samples} below branching {config.branching}; expected at least as many"
        )
    diverse = config.name == "dvts"
    lines = [[Line(ROOT, i if diverse else 0) for i in range(num_kept)] for _ in trees]
    for _ in range(config.max_steps):
        open_lines = [
            [line for line in of_tree if _is_open(t, line.node, tools)]
            for t, of_tree in zip(trees, lines, strict=True)
        ]
        going = [i for i, of_tree in enumerate(open_lines) if of_tree]
        if not going:
            break
        branches = [
            [b for line in open_lines[i] for b in from_end(trees[i], line.node, config.branching)]
            for i in going
        ]
        growing = [trees[i] for i in going]
        new = extend(growing, branches, tools, config.sampling, one_step=True)
        score(growing)
        for i, nodes in zip(going, new, strict=True):
            ended = [line for line in lines[i] if line not in open_lines[i]]
            groups = [line.group for line in open_lines[i] for _ in range(config.branching)]
            fresh = _distinct(trees[i], list(map(Line, nodes, groups)))
            lines[i] = _best_lines(trees[i], [*ended, *fresh], num_kept, diverse, tools, config)
        tools.on_progress(len(trees) - len(going), len(trees))
    return [_chosen(t, [line.node for line in of_tree], tools, config)
            for t, of_tree in zip(trees, lines, strict=True)]  # fmt: skip


def _is_open(tree: Tree, node: int, tools: Tools) -> bool:
    return node == ROOT or (not is_finished(tree, node) and has_room(tree, node, tools))


def _distinct(tree: Tree, lines: list[Line]) -> list[Line]:
    """Without the repeated steps among a subtree's siblings, which would win twice."""
    first: dict[tuple, Line] = {}
    for line in lines:
        node = tree.nodes[line.node]
        first.setdefault((line.group, node.parent, node.token_ids), line)
    return list(first.values())


def _best_lines(
    tree: Tree, lines: list[Line], num_kept: int, diverse: bool, tools: Tools, config: Beam
) -> list[Line]:
    """The `num_kept` best, or the best of each subtree; ties to the one drawn first."""
    ranked = sorted(lines, key=lambda line: (-prm_score(tree, line.node, config.aggregate, tools), line.node))
    if not diverse:
        return ranked[:num_kept]
    best: dict[int, Line] = {}
    for line in ranked:
        best.setdefault(line.group, line)
    return [best[group] for group in sorted(best)]


def _chosen(tree: Tree, nodes: list[int], tools: Tools, config: Beam) -> Choice:
    finished = [n for n in nodes if n != ROOT and is_finished(tree, n)]
    among = finished or [n for n in nodes if n != ROOT]
    scores = [prm_score(tree, n, config.aggregate, tools) for n in among]
    _, classes = classes_of(tree, among, tools)
    pick = (by_weighted_votes if config.final == "vote" else by_score)(classes, scores, PLAIN)
    return choice_among(tree, among, scores, pick.index, pick.confidence, tools, TREE)
