"""Chains that go wrong, say so and go back: a wrong step, a sign of doubt, the right sibling, out of one tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, takewhile
from typing import NamedTuple

from reasoner.signals.consensus import StepJudge
from reasoner.signals.step_labels import NO_ERROR
from reasoner.tree import ROOT, Tree, counts

Decode = Callable[[Sequence[int]], str]


class Turn(NamedTuple):
    """A trace by its token ids: `head` with the wrong turn from position `back` on, then the link, then `tail`."""

    head: list[int]
    back: int
    tail: list[int]


def turns_by_verdicts(tree: Tree) -> Iterator[Turn]:
    """One for each branch state with right and wrong continuations.

    The wrong turn runs to the first step after which every continuation failed, or where none was tried to
    the last step but one; then the right sibling from the last step that both have in common.
    """
    for (node, offset), children in _branches(tree).items():
        drawn = [*children, *([node] if node != ROOT and offset < len(tree.nodes[node].token_ids) else [])]
        right = [d for d in drawn if is_right(tree, d)]
        wrong = [d for d in drawn if status(tree, d) == "incorrect"]
        prefix = len(tree.completion_ids(node, offset)) if node != ROOT else 0
        for bad in wrong:
            turn_end = _turn_end(tree, bad, prefix)
            if right and turn_end is not None:
                good = min(right, key=lambda r: len(tree.completion_ids(r)))
                back = [0, *(e for e, _ in _step_states(tree, good) if e <= prefix)][-1]
                yield Turn(tree.completion_ids(bad)[:turn_end], back, tree.completion_ids(good)[back:])
                break


def turns_by_judge(tree: Tree, judge: StepJudge, decode: Decode) -> Iterator[Turn]:
    """One for each wrong step that a judge finds in a wrong chain, the shortest way back first.

    The wrong turn ends with that step; then the chain without a wrong step that goes along with it for longest, from the
    last step that both have in common. A wrong answer is no such step: nothing can follow it.
    """
    right = [_Chain(tree, leaf, decode) for leaf in tree.leaves() if is_right(tree, leaf)]
    wrong = [_Chain(tree, leaf, decode) for leaf in tree.leaves() if status(tree, leaf) == "incorrect"]
    chains = [*right, *wrong]
    votes = judge([tree.problem.prompt] * len(chains), [chain.steps for chain in chains])
    sound = [chain for chain, vote in zip(right, votes, strict=False) if vote == NO_ERROR]
    found: dict[tuple[int, ...], tuple[int, Turn]] = {}
    for bad, vote in zip(wrong, votes[len(right) :], strict=True):
        if not sound or not 0 <= vote < len(bad.ends) - 1:
            continue
        start = [0, *bad.ends][vote]
        ways = [
            (max(e for e in [0, *good.ends] if e <= min(start, bad.shared(good))), good) for good in sound
        ]
        back, good = max(ways, key=lambda way: (way[0], -len(way[1].ids)))
        head = bad.ids[: bad.ends[vote]]
        found.setdefault(tuple(head), (start - back, Turn(head, back, good.ids[back:])))
    yield from (turn for _, turn in sorted(found.values(), key=lambda way: way[0]))


class _Chain:
    """A trajectory: its completion tokens, where its steps end in them, and the steps' texts."""

    def __init__(self, tree: Tree, leaf: int, decode: Decode):
        self.ids = tree.completion_ids(leaf)
        self.ends = [end for end, _ in _step_states(tree, leaf)]
        self.steps = [decode(self.ids[a:b]) for a, b in pairwise([0, *self.ends])]

    def shared(self, other: _Chain) -> int:
        """How many tokens both begin with."""
        return sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self.ids, other.ids, strict=False))
        )


def status(tree: Tree, leaf: int) -> str:
    verdict = tree.verdicts.get(leaf)
    return verdict.status if verdict is not None else ""


def is_right(tree: Tree, leaf: int) -> bool:
    """Whether the trajectory came to its end by itself and is correct."""
    return status(tree, leaf) == "correct" and tree.nodes[leaf].stop_reason == "eos"


def _turn_end(tree: Tree, leaf: int, prefix: int) -> int | None:
    """How many completion tokens the wrong turn keeps: to a step after `prefix` that is known dead; None without one."""
    states = [(end, state) for end, state in _step_states(tree, leaf) if end > prefix]
    for (end, state), _ in pairwise(states):
        tried = counts(tree, *state)
        if tried.n and not tried.c:
            return end
        if tried.c:
            return None  # right answers come from here, so the fault lies in what follows
    return states[-2][0] if len(states) > 1 else None


def _step_states(tree: Tree, leaf: int) -> list[tuple[int, tuple[int, int]]]:
    """Per step of the trajectory, its end in completion tokens and as a state (node, offset)."""
    begin, at = {}, 0
    for span in tree.path(leaf)[1:]:
        begin[span.node] = at
        at += span.end
    return [(begin[e.node] + e.index + 1, (e.node, e.index + 1)) for e in tree.step_ends(leaf)]


def _branches(tree: Tree) -> dict[tuple[int, int], list[int]]:
    found: dict[tuple[int, int], list[int]] = {}
    leaves = set(tree.leaves())
    for i, node in enumerate(tree.nodes[1:], start=1):
        if i in leaves:
            found.setdefault((node.parent, node.offset), []).append(i)
    return found
