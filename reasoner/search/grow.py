"""Grow many trees at once through one engine: waves of branches per tree, all trees in flight together.

A branch policy looks at a tree whose earlier waves have all come back and names the states to continue
from; it never sees the order of arrival, so the same seed grows the same trees whatever the batching.
Budgets and pruning are policies around a policy (search/budgets, search/prune).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import cast

from reasoner.engine.protocol import STOP_REASONS, Completion, Engine, Request, Sampling, place_key
from reasoner.registry import UserError
from reasoner.tree import ROOT, Node, Tree

logger = logging.getLogger(__name__)
MANY = 16  # completions of which one should have ended by itself
NO_NUMBERS = ("nan", "empty", "vocabulary", "context", "memory")  # ends of which none may be the only one

# (token ids, their full log-probabilities, completion tokens before them) -> positions of the steps' last tokens
StepMarker = Callable[[Sequence[int], Sequence[float], Sequence[int]], list[int]]


@dataclass(frozen=True)
class Branch:
    """Continue the state (parent, offset); see Node for `drawn` and `propensity`.

    With `one_step` the continuation pauses at the end of its first step (stop reason `open`). A branch with
    `dropped`, the name of the pruner that was against it, draws nothing: an empty node holds its place.
    """

    parent: int
    offset: int
    drawn: str = "independent"
    propensity: float = 1.0
    one_step: bool = False
    dropped: str = ""


BranchPolicy = Callable[[Tree, int], list[Branch]]


@dataclass(frozen=True)
class StepStop:
    """Where a continuation of one step pauses: after one of `ids` where `is_end` agrees, or after `max_tokens`.

    `is_end` reads the completion so far: a delimiter inside a formula or a code block ends nothing.
    """

    ids: frozenset[int] = frozenset()
    max_tokens: int = 0
    is_end: Callable[[Sequence[int]], bool] = lambda token_ids: True


@dataclass(frozen=True)
class Growth:
    """How continuations are drawn: `seed` and `round` fix all noise; `max_tokens` bounds a whole completion.

    With `is_part` that is where a completion pauses, and others will go on with it.
    """

    mark_steps: StepMarker
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    round: int = 0
    stop_ids: frozenset[int] = frozenset()
    step_stop: StepStop = field(default_factory=StepStop)
    is_part: bool = False


@dataclass
class _Wave:
    """Branches of one tree that are under way together, with what has come back of each."""

    number: int = 0
    branches: list[Branch] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    came: list[Completion | None] = field(default_factory=list)
    nodes: list[Node | None] = field(default_factory=list)
    missing: int = 0


@dataclass
class _Growing:
    """A tree with the wave that is under way."""

    tree: Tree
    wave: _Wave = field(default_factory=_Wave)


def grow(
    trees: Iterable[Tree],
    engine: Engine,
    policy: BranchPolicy,
    growth: Growth,
    on_progress: Callable[[int], None] = lambda done: None,
    observe: Callable[[Sequence[Tree]], None] = lambda trees: None,
    on_node: Callable[[int, int, Node], None] = lambda t, number, node: None,
    on_done: Callable[[int, Tree], None] = lambda t, tree: None,
    ahead: int = 0,
) -> None:
    """Extend each tree wave by wave until `policy(tree, wave)` names no further branch.

    `observe` sees the trees whose wave has just come back, before their policy is asked: verdicts and scores
    that a policy reads are set there. `on_progress` counts the trees done. `on_node(tree's number, node's id,
    node)` hears of each continuation when it comes back, before its wave is complete and the node in its tree;
    `on_done` of each tree that is done, which is then let go of. With `ahead`, no tree is taken while that many
    continuations are under way: a stream of trees takes the memory of a few.
    """
    coming = enumerate(trees)
    growing: dict[int, _Growing] = {}
    from_prompts = Counter[str]()  # why the prompts' own continuations stopped
    num_under_way = num_done = 0

    def go_on(t: int) -> None:
        nonlocal num_under_way, num_done
        if live := _next_wave(t, growing[t], policy, growth):
            engine.submit(live)
            num_under_way += len(live)
            return
        num_done += 1
        on_done(t, growing.pop(t).tree)
        on_progress(num_done)

    def admit() -> None:
        while not ahead or num_under_way < ahead:
            t, tree = next(coming, (0, None))
            if tree is None:
                return
            growing[t] = _Growing(tree)
            go_on(t)

    admit()
    while growing:
        finished = engine.poll()
        if not finished:
            raise UserError(
                f"the engine returned nothing and {len(growing)} trees wait for continuations; expected one for each "
                "request: check the engine"
            )
        ready: list[int] = []
        for completion in finished:
            t, i = cast(tuple[int, int], completion.id)
            tree, wave = growing[t].tree, growing[t].wave
            branch, reason = wave.branches[i], completion.stop_reason
            if branch.parent == ROOT:  # a step's own limit is no end of the turn's
                from_prompts["open" if branch.one_step and reason == "length" else reason] += 1
            first = wave.came[i]
            came = wave.came[i] = completion if first is None else _joined(first, completion)
            rest = _unfinished(branch, wave.requests[i], came, tree, growth)
            if rest is not None:
                engine.submit([rest])
                continue
            num_under_way -= 1
            node = wave.nodes[i] = _node(tree, branch, wave.requests[i], came, growth)
            on_node(t, len(tree.nodes) + i, node)
            wave.missing -= 1
            if not wave.missing:
                _add_nodes(tree, wave)
                ready.append(t)
        if ready:
            observe([growing[t].tree for t in ready])
        for t in ready:
            go_on(t)
        admit()
    engine.poll()  # nothing is left, by which an engine knows that it may give memory back
    _check_drawn(from_prompts, growth)


def grow_once(
    trees: Sequence[Tree],
    branches: Sequence[Sequence[Branch]],
    engine: Engine,
    growth: Growth,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[list[int]]:
    """One wave over all trees: continue each tree's branches; the new nodes' ids, in the order of the branches."""
    wanted = {id(tree): list(of_tree) for tree, of_tree in zip(trees, branches, strict=True)}
    first = [len(tree.nodes) for tree in trees]
    grow(trees, engine, lambda tree, wave: wanted[id(tree)] if wave == 0 else [], growth, on_progress)
    return [list(range(start, len(tree.nodes))) for start, tree in zip(first, trees, strict=True)]


def put_in(
    tree: Tree, parent: int, offset: int, token_ids: Sequence[int], growth: Growth, reason: str
) -> int:
    """Add tokens that nobody sampled (they have no log-probabilities); the new node's id."""
    ends = tuple(growth.mark_steps(token_ids, (), tree.completion_ids(parent, offset)))
    return tree.add(
        Node(parent, offset, tuple(token_ids), step_ends=ends, stop_reason=reason, drawn="forced")
    )


def _next_wave(t: int, at: _Growing, policy: BranchPolicy, growth: Growth) -> list[Request]:
    """Begin the next wave of tree number `t`: its requests, none where its policy is done with it."""
    while branches := policy(at.tree, at.wave.number):
        wave = at.wave = _Wave(at.wave.number + 1, branches, _requests(at.tree, t, branches, growth))
        wave.came = [None] * len(branches)
        wave.nodes = [_dropped(b) if b.dropped else None for b in branches]
        live = [r for r, b in zip(wave.requests, branches, strict=True) if not b.dropped]
        wave.missing = len(live)
        if live:
            return live
        _add_nodes(at.tree, wave)
    return []


def _check_drawn(reasons: Counter[str], growth: Growth) -> None:
    """A UserError where not one prompt was continued by numbers: the engine, the model or the prompts are broken.

    A warning where none of many came to an end: the model may end its turns with a token that nobody named.
    """
    if all(reason in NO_NUMBERS for reason in reasons) and reasons:
        why = ", ".join(f"{n} {reason} ({STOP_REASONS[reason]})" for reason, n in sorted(reasons.items()))
        raise UserError(
            f"all {reasons.total()} continuations of prompts broke off: {why}; expected tokens: check that weights, dtype, "
            "tokenizer and prompts belong together"
        )
    if set(reasons) == {"length"} and reasons.total() >= MANY and not growth.is_part:
        _warn_endless(growth.max_tokens)


@lru_cache(maxsize=16)
def _warn_endless(max_tokens: int) -> None:
    """Once for each limit, however many rounds there are."""
    logger.warning(
        "no completion ended its turn within max_tokens=%d: raise max_tokens, or name the token that ends the model's "
        "turns in prompt.stop",
        max_tokens,
    )


def in_turns(plan: Callable[[Tree], Iterator[list[Branch]]]) -> BranchPolicy:
    """A policy from a generator per tree: it yields branches and goes on once they have come back."""
    running: dict[int, Iterator[list[Branch]]] = {}

    def policy(tree: Tree, wave: int) -> list[Branch]:
        if wave == 0:
            running[id(tree)] = plan(tree)
        branches = next(running[id(tree)], [])
        if not branches:
            del running[id(tree)]
        return branches

    return policy


def _requests(tree: Tree, t: int, branches: Sequence[Branch], growth: Growth) -> list[Request]:
    """One request a branch; the place of a continuation is its path of (offset, ordinal) pairs."""
    paths = place_paths(tree)
    taken: dict[tuple[int, int], int] = {}
    for node in tree.nodes[1:]:
        state = (node.parent, node.offset)
        taken[state] = taken.get(state, 0) + 1
    requests = []
    if any(b.one_step for b in branches) and not (growth.step_stop.ids or growth.step_stop.max_tokens):
        raise UserError(
            "the search goes step by step, and nothing tells while sampling where a step ends; expected the step rule "
            "delimiter or count: set prompt.steps.rule, or let whole chains be drawn"
        )
    for i, branch in enumerate(branches):
        state = (branch.parent, branch.offset)
        ordinal = taken.get(state, 0)
        taken[state] = ordinal + 1
        prefix = tree.token_ids(branch.parent, branch.offset)
        room = max(1, growth.max_tokens - (len(prefix) - tree.num_prompt))
        path = [*paths[branch.parent], (branch.offset, ordinal)]
        requests.append(
            Request(
                id=(t, i),
                prefix_ids=prefix,
                max_tokens=min(room, growth.step_stop.max_tokens or room) if branch.one_step else room,
                place=place_of(growth, tree, path),
                sampling=growth.sampling,
                stop_ids=growth.stop_ids | growth.step_stop.ids if branch.one_step else growth.stop_ids,
                tree=tree.problem.id,
            )
        )
    return requests


def place_of(growth: Growth, tree: Tree, path: Sequence[tuple[int, int]]) -> int:
    """The key of a place in a tree; trees of one problem in one round are told apart by their occurrence."""
    whole = [(-2, tree.occurrence), *path] if tree.occurrence else path
    return place_key(growth.seed, growth.round, tree.problem.id, whole)


def _joined(first: Completion, then: Completion) -> Completion:
    """One continuation from two that follow each other."""
    return replace(
        then,
        token_ids=first.token_ids + then.token_ids,
        logprobs=first.logprobs + then.logprobs,
        logprobs_full=first.logprobs_full + then.logprobs_full,
        entropy=first.entropy + then.entropy,
    )


def _unfinished(
    branch: Branch, request: Request, so_far: Completion, tree: Tree, growth: Growth
) -> Request | None:
    """The request that goes on with a step which a delimiter stopped but did not end; None where all is well.

    Noise belongs to a place and a token's position, so the parts are what one request would have drawn.
    """
    stop = growth.step_stop
    if not branch.one_step or so_far.stop_reason != "stop" or so_far.token_ids[-1] not in stop.ids:
        return None
    whole = [*request.prefix_ids, *so_far.token_ids]
    left = request.max_tokens - len(so_far.token_ids)
    if left <= 0 or stop.is_end(whole[tree.num_prompt :]):
        return None
    return replace(request, prefix_ids=whole, max_tokens=left)


def _dropped(branch: Branch) -> Node:
    return Node(
        branch.parent, branch.offset, (), stop_reason=f"pruned:{branch.dropped}",
        propensity=branch.propensity, drawn=branch.drawn,
    )  # fmt: skip


def _node(tree: Tree, branch: Branch, request: Request, came: Completion, growth: Growth) -> Node:
    before = request.prefix_ids[tree.num_prompt :]
    return Node(
        parent=branch.parent,
        offset=branch.offset,
        token_ids=came.token_ids,
        logprobs=came.logprobs,
        logprobs_full=came.logprobs_full,
        entropy=came.entropy,
        step_ends=tuple(growth.mark_steps(came.token_ids, came.logprobs_full, before)),
        stop_reason=_stop_reason(branch, came, len(before), growth),
        weights_version=came.weights_version,
        adapter=came.adapter,
        propensity=branch.propensity,
        drawn=branch.drawn,
    )


def _add_nodes(tree: Tree, wave: _Wave) -> None:
    for node in wave.nodes:
        assert node is not None
        tree.add(node)


def _stop_reason(branch: Branch, came: Completion, num_before: int, growth: Growth) -> str:
    """The engine's, but `open` where only the step is at its end and the completion may go on."""
    at_delimiter = came.stop_reason == "stop" and came.token_ids[-1] in growth.step_stop.ids
    if not branch.one_step or not (at_delimiter or came.stop_reason == "length"):
        return came.stop_reason
    return "length" if num_before + len(came.token_ids) >= growth.max_tokens else "open"


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
