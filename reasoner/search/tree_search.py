"""Answer by Monte-Carlo tree search: values are the PRM's, or a verifier's where answers can be checked when asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from reasoner.engine.protocol import Sampling
from reasoner.registry import UserError
from reasoner.search.choose import PLAIN, by_score, by_weighted_votes
from reasoner.search.grow import grow
from reasoner.search.mcts import MCTSConfig, ValueFn, mcts, most_visited, outcome_or_score, search_graph
from reasoner.search.method import (
    TREE,
    Choice,
    Sampled,
    Tools,
    choice_among,
    classes_of,
    extend,
    from_end,
    is_finished,
    need,
)
from reasoner.tree import Tree


class TreeSearch(Sampled):
    """Monte-Carlo tree search with `num_samples` continuations in all."""

    name: Literal["mcts"]
    num_samples: int = Field(
        16, ge=1, description="continuations drawn per problem, over all expanded states"
    )
    judge: Literal["prm", "verifier"] = Field("prm", description="what values a continuation")
    final: Literal["vote", "best", "visits"] = Field(
        "vote",
        description="votes of the ended chains weighted by value, the best of them, or the most visited path",
    )
    search: MCTSConfig = Field(
        default=MCTSConfig.model_validate({}), description="the search; num_simulations follows num_samples"
    )


def tree_search(trees: Sequence[Tree], tools: Tools, config: TreeSearch) -> list[Choice]:
    """Grow by PUCT or UCT, then answer by the ended chains, or by the most visited path (finished greedily)."""
    if config.judge == "verifier" and config.search.evaluate == "score":
        raise UserError(
            "mcts has judge verifier and evaluate score; expected evaluate: rollout, since only ends can be verified"
        )
    tool = tools.prm if config.judge == "prm" else tools.verify
    observe = need(tool, {"prm": "prm", "verifier": "a verifier"}[config.judge], "mcts")
    simulations = max(1, config.num_samples // config.search.num_children)
    search = config.search.model_copy(update={"num_simulations": simulations})
    value = outcome_or_score("prm" if config.judge == "prm" else None)
    growth = replace(tools.growth, sampling=config.sampling)
    total = len(trees)
    grow(trees, tools.engine, mcts(search, value), growth, lambda n: tools.on_progress(n, total), observe)
    if config.final == "visits":
        return _by_visits(trees, value, tools)
    return [_by_values(t, value, tools, config) for t in trees]


def _by_values(tree: Tree, value: ValueFn, tools: Tools, config: TreeSearch) -> Choice:
    ended = [i for i in range(1, len(tree.nodes)) if is_finished(tree, i)]
    among = ended or list(range(1, len(tree.nodes)))
    scores = [value(tree, i) or 0.0 for i in among]
    _, classes = classes_of(tree, among, tools)
    pick = (by_weighted_votes if config.final == "vote" else by_score)(classes, scores, PLAIN)
    return choice_among(tree, among, scores, pick.index, pick.confidence, tools, TREE)


def _by_visits(trees: Sequence[Tree], value: ValueFn, tools: Tools) -> list[Choice]:
    ends = []
    for tree in trees:
        graph = search_graph(tree, [None, *(value(tree, i) for i in range(1, len(tree.nodes)))])
        ends.append(most_visited(graph)[-1][0])
    open_ends = [i for i, end in enumerate(ends) if not trees[i].nodes[end].is_finished]
    new = extend(
        [trees[i] for i in open_ends], [from_end(trees[i], ends[i]) for i in open_ends], tools, Sampling(0.0)
    )
    for i, (node,) in zip(open_ends, new, strict=True):
        ends[i] = node
    return [choice_among(t, [end], [1.0], 0, 1.0, tools, TREE) for t, end in zip(trees, ends, strict=True)]
