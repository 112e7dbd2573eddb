"""Grow many trees at once through one engine: waves of branches per tree, all trees in flight together.

A branch policy looks at a tree whose earlier waves have all come back and names the states to continue
from; it never sees the order of arrival, so the same seed grows the same trees whatever the batching.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from reasoner.policy.engine import Engine, Request, Sampling, place_key
from reasoner.tree import ROOT, Node, Tree

StepMarker = Callable[[Sequence[int]], list[int]]


@dataclass(frozen=True)
class Branch:
    """Continue the state (parent, offset); see Node for `drawn` and `propensity`."""

    parent: int
    offset: int
    drawn: str = "independent"
    propensity: float = 1.0


BranchPolicy = Callable[[Tree, int], list[Branch]]


@dataclass(frozen=True)
class Growth:
    """How continuations are drawn: `seed` and `round` fix all noise; `max_tokens` bounds a whole completion."""

    mark_steps: StepMarker
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    round: int = 0
    stop_ids: frozenset[int] = frozenset()


def grow(
    trees: Sequence[Tree],
    engine: Engine,
    policy: BranchPolicy,
    growth: Growth,
    on_progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Extend each tree wave by wave until `policy(tree, wave)` names no further branch; `on_progress` counts trees done."""
    waves = [0] * len(trees)
    waiting: list[dict[int, Node | None]] = [{} for _ in trees]
    branches: list[list[Branch]] = [[] for _ in trees]
    active = 0

    def start_wave(t: int) -> bool:
        branches[t] = policy(trees[t], waves[t])
        waves[t] += 1
        waiting[t] = dict.fromkeys(range(len(branches[t])))
        engine.submit(_requests(trees[t], t, branches[t], growth))
        return bool(branches[t])

    for t in range(len(trees)):
        active += start_wave(t)
    while active:
        finished = engine.poll()
        if not finished:
            raise RuntimeError(f"the engine has nothing left to do but {active} trees wait for continuations")
        for completion in finished:
            t, ordinal = completion.id
            branch = branches[t][ordinal]
            waiting[t][ordinal] = Node(
                parent=branch.parent,
                offset=branch.offset,
                token_ids=completion.token_ids,
                logprobs=completion.logprobs,
                logprobs_full=completion.logprobs_full,
                entropy=completion.entropy,
                step_ends=tuple(growth.mark_steps(completion.token_ids)),
                stop_reason=completion.stop_reason,
                weights_version=completion.weights_version,
                adapter=completion.adapter,
                propensity=branch.propensity,
                drawn=branch.drawn,
            )
            if any(node is None for node in waiting[t].values()):
                continue
            for node in waiting[t].values():
                assert node is not None
                trees[t].add(node)
            if not start_wave(t):
                active -= 1
                on_progress(len(trees) - active)


def _requests(tree: Tree, t: int, branches: Sequence[Branch], growth: Growth) -> list[Request]:
    """One request a branch; the place of a continuation is its path of (offset, ordinal) pairs."""
    paths = place_paths(tree)
    taken: dict[tuple[int, int], int] = {}
    for node in tree.nodes[1:]:
        state = (node.parent, node.offset)
        taken[state] = taken.get(state, 0) + 1
    requests = []
    for i, branch in enumerate(branches):
        state = (branch.parent, branch.offset)
        ordinal = taken.get(state, 0)
        taken[state] = ordinal + 1
        prefix = tree.token_ids(branch.parent, branch.offset)
        prompt = len(tree.nodes[ROOT].token_ids)
        path = [*paths[branch.parent], (branch.offset, ordinal)]
        requests.append(
            Request(
                id=(t, i),
                prefix_ids=prefix,
                max_tokens=max(1, growth.max_tokens - (len(prefix) - prompt)),
                place=place_key(growth.seed, growth.round, tree.problem.id, path),
                sampling=growth.sampling,
                stop_ids=growth.stop_ids,
            )
        )
    return requests


def place_paths(tree: Tree) -> list[list[tuple[int, int]]]:
    """Per node the (offset, ordinal among its state's continuations) pairs from the root to it."""
    paths: list[list[tuple[int, int]]] = [[]]
    taken: dict[tuple[int, int], int] = {}
    for node in tree.nodes[1:]:
        state = (node.parent, node.offset)
        ordinal = taken.get(state, 0)
        taken[state] = ordinal + 1
        paths.append([*paths[node.parent], (node.offset, ordinal)])
    return paths
