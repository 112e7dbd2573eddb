"""Monte-Carlo tree search over steps: select by PUCT or UCT, expand by sampling, evaluate, back up.

A state is expanded once, by a fixed number of continuations: whole chains, which are their own rollouts
(the next step end along each is a child state), or single steps, which a scorer values. Statistics are
derived from the tree: every stored node is one evaluation at its end, and counts for each state on its path.
So a failure (no room, NaN, cut by the token limit) lowers its ancestors as any wrong answer does, and a
rollout from a state is an independent continuation of it, good for labels.

A finished end is never selected again: its outcome is known, and so is that of a state all of whose
children are closed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from reasoner.config import Config, Entry
from reasoner.registry import UserError, lookup
from reasoner.search.grow import Branch, BranchPolicy, in_turns
from reasoner.tree import ROOT, Node, Tree

State = tuple[int, int]  # (node, offset)
ValueFn = Callable[[Tree, int], float | None]

FAILURES = ("nan", "context", "length")


class MCTSConfig(Config):
    """Monte-Carlo tree search over the steps of one problem."""

    policy: Literal["mcts"] = Field(default="mcts", description="how trees branch")
    select: Annotated[str, Entry("selection rule", "reasoner.search.mcts:SELECT")] = Field(
        default="puct", description="puct | uct, or module:function"
    )
    evaluate: Literal["rollout", "score"] = Field(
        default="rollout",
        description="expand by whole chains, valued by their outcome, or by single steps that a scorer values",
    )
    num_simulations: int = Field(default=16, ge=1, description="states expanded, the prompt included")
    num_children: int = Field(default=4, ge=1, description="continuations of an expanded state")
    num_parallel: int = Field(
        default=1,
        ge=1,
        description="states expanded at once in one tree; more fill the engine where trees are few",
    )
    max_depth: int = Field(default=40, ge=1, description="most steps from the prompt to an expanded state")
    exploration: float = Field(
        default=1.0, ge=0, description="weight of the bonus for what was visited little; values are 0 to 1"
    )


class Edge(NamedTuple):
    """A child state seen from its parent: visits `n`, mean value `q`, and `prior` = exp(mean log-probability of its step)."""

    state: State
    n: int
    q: float
    prior: float


def puct(edge: Edge, visits: int, exploration: float) -> float:
    """Q + c · prior · sqrt(N) / (1 + n), as in AlphaZero (Silver et al. 2018) with the sampled step's own prior."""
    return edge.q + exploration * edge.prior * math.sqrt(visits) / (1 + edge.n)


def uct(edge: Edge, visits: int, exploration: float) -> float:
    """Q + c · sqrt(2 ln N / n) (Kocsis & Szepesvári 2006); what was never visited comes first."""
    if edge.n == 0:
        return math.inf
    return edge.q + exploration * math.sqrt(2 * math.log(max(1, visits)) / edge.n)


SELECT: dict[str, Callable[[Edge, int, float], float]] = {"puct": puct, "uct": uct}


def outcome_or_score(name: str | None = None) -> ValueFn:
    """The value of a node's end: its verdict, 0 for a failure, else the last of its scores called `name`.

    None where our side failed to judge. UserError where nothing values the node.
    """

    def value(tree: Tree, i: int) -> float | None:
        node = tree.nodes[i]
        verdict = tree.verdicts.get(i)
        if verdict is not None:
            return None if verdict.status == "error" else float(verdict.status == "correct")
        if node.stop_reason in FAILURES:
            return 0.0
        scores = tree.scores.get(name, {}).get(i) if name else None
        if not scores:
            raise UserError(
                f"the search has no value for node {i} of problem {tree.problem.id!r} (stop reason {node.stop_reason}); "
                "expected a verifier for whole chains, or a scorer: set one, or evaluate: rollout"
            )
        return scores[-1]

    return value


def mcts(config: MCTSConfig, value: ValueFn) -> BranchPolicy:
    """Expand the prompt, then one selected state after the other (or `num_parallel` at a time).

    `value(tree, node)` is asked once what a wave brought is back; see `outcome_or_score`.
    """
    rule = lookup(SELECT, config.select, "selection rule")

    def plan(tree: Tree) -> Iterator[list[Branch]]:
        values: list[float | None] = [None]
        states: list[State] = [(ROOT, len(tree.nodes[ROOT].token_ids))]
        expanded = 0
        while states:
            expanded += len(states)
            yield [
                Branch(node, offset, one_step=config.evaluate == "score")
                for node, offset in states
                for _ in range(config.num_children)
            ]
            values += [
                None if tree.nodes[i].is_pruned else value(tree, i)
                for i in range(len(values), len(tree.nodes))
            ]
            room = min(config.num_parallel, config.num_simulations - expanded)
            states = _select(search_graph(tree, values), rule, config, room)

    return in_turns(plan)


class Graph(NamedTuple):
    """Child states by state, visits and summed values of each state, the states with drawn continuations, and the ends."""

    root: State
    children: dict[State, list[State]]
    visits: dict[State, int]
    sums: dict[State, float]
    priors: dict[State, float]
    expanded: set[State]
    ended: set[State]

    def edges(self, state: State) -> list[Edge]:
        """The children with what is known of them; of an unvisited one the value is that of the parent."""
        return [
            Edge(c, n, self.sums[c] / n if n else self.value(state), self.priors[c])
            for c in self.children.get(state, [])
            for n in (self.visits[c],)
        ]

    def value(self, state: State) -> float:
        n = self.visits.get(state, 0)
        return self.sums[state] / n if n else 0.0


def search_graph(tree: Tree, values: list[float | None]) -> Graph:
    """The states of a tree with the visits and values of all evaluations below: `values` holds one per node, None for none."""
    root = (ROOT, len(tree.nodes[ROOT].token_ids))
    expanded = {(n.parent, n.offset) for n in tree.nodes[1:]}
    bounds: list[list[int]] = [[] for _ in tree.nodes]
    for i, node in enumerate(tree.nodes[1:], start=1):
        branches = {o for p, o in expanded if p == i} if node.token_ids else set()
        bounds[i] = sorted({e + 1 for e in node.step_ends} | branches)
    graph = Graph(root, {}, {root: 0}, {root: 0.0}, {}, expanded, set())
    for i in reversed(range(1, len(tree.nodes))):
        node = tree.nodes[i]
        own = values[i]
        n, w = (0, 0.0) if own is None else (1, own)
        for offset in reversed(bounds[i]):
            state = (i, offset)
            n += graph.visits.get(state, 0)
            w += graph.sums.get(state, 0.0)
            graph.visits[state], graph.sums[state] = n, w
        above = (node.parent, node.offset)
        graph.visits[above] = graph.visits.get(above, 0) + n
        graph.sums[above] = graph.sums.get(above, 0.0) + w
    for i, node in enumerate(tree.nodes[1:], start=1):
        state, start = (node.parent, node.offset), 0
        for offset in bounds[i]:
            graph.children.setdefault(state, []).append((i, offset))
            graph.priors[i, offset] = _prior(node, start, offset)
            state, start = (i, offset), offset
        if node.is_finished and bounds[i]:
            graph.ended.add((i, len(node.token_ids)))
    return graph


def most_visited(graph: Graph) -> list[State]:
    """From the prompt to an end or an unexpanded state by visits; ties by prior, so that one simulation is greedy by prior."""
    path = [graph.root]
    while edges := graph.edges(path[-1]):
        path.append(max(edges, key=lambda e: (e.n, e.prior, e.q)).state)
    return path


def _prior(node: Node, start: int, end: int) -> float:
    """Probability of the step per token, as a geometric mean; 1 for text without log-probabilities."""
    logprobs = node.logprobs_full[start:end]
    return math.exp(sum(logprobs) / len(logprobs)) if logprobs else 1.0


def _select(
    graph: Graph, rule: Callable[[Edge, int, float], float], config: MCTSConfig, room: int
) -> list[State]:
    """Up to `room` unexpanded states, best first; each one counts as a visit of value 0 for those chosen after it."""
    closed = _closed(graph, config.max_depth)
    chosen: list[State] = []
    while len(chosen) < room and graph.root not in closed:
        path = [graph.root]
        while path[-1] in graph.expanded:
            state = path[-1]
            visits = graph.visits[state]
            ready = [e for e in graph.edges(state) if e.state not in closed]
            path.append(max(ready, key=lambda e: rule(e, visits, config.exploration)).state)
        chosen.append(path[-1])
        closed.add(path[-1])
        for state in reversed(path):
            graph.visits[state] += 1
            if state in graph.expanded and all(c in closed for c in graph.children.get(state, [])):
                closed.add(state)
    return chosen


def _closed(graph: Graph, max_depth: int) -> set[State]:
    """States that selection leaves out: ends, those too deep to expand, and expanded ones whose children are all closed."""
    depth = {graph.root: 0}
    order = [graph.root]
    for state in order:
        for child in graph.children.get(state, []):
            depth[child] = depth[state] + 1
            order.append(child)
    closed: set[State] = set()
    for state in reversed(order):
        if state in graph.ended:
            closed.add(state)
        elif state in graph.expanded:
            if all(child in closed for child in graph.children.get(state, [])):
                closed.add(state)
        elif depth[state] > max_depth:
            closed.add(state)
    return closed
