"""Trees that are larger than a batch, cut into smaller ones that together have the same gradient.

A token's hidden state hangs on its ancestors alone. So each part holds whole paths from the root on, and what several
parts share carries loss in the first of them only; the others compute it again, without loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from reasoner.policy.labelled import Labelled, State
from reasoner.policy.packing import num_tokens
from reasoner.records import PolicySample
from reasoner.tree import ROOT, Node, Tree


def parts(tree: Tree, room: int) -> list[dict[int, int]]:
    """The nodes of each part with so many of their tokens, ancestors before what follows them.

    A part has at most `room` tokens, or one path that is longer. A node is whole in the first part that holds it, and no
    longer than it must be in the others.
    """
    below: list[list[int]] = [[] for _ in tree.nodes]
    for i, node in enumerate(tree.nodes[1:], start=1):
        below[node.parent].append(i)
    found: list[dict[int, int]] = []
    seen: set[int] = set()
    stack = [ROOT]
    while stack:  # depth first, so that neighbours share most
        last = stack.pop()
        stack += reversed(below[last])
        if below[last]:
            continue
        path = {
            s.node: s.end if s.node in seen else len(tree.nodes[s.node].token_ids) for s in tree.path(last)
        }
        merged = {i: max(path.get(i, 0), found[-1].get(i, 0)) for i in path | found[-1]} if found else path
        if found and sum(merged.values()) <= room:
            found[-1] = merged
        else:
            found.append(path)
        seen |= path.keys()
    return [dict(sorted(part.items())) for part in found]


def split(sample: PolicySample, room: int) -> list[PolicySample]:
    """The sample as one or several of at most `room` tokens each, whose losses and gradients add up to its own."""
    if num_tokens(sample.tree) <= room:
        return [sample]
    found: list[PolicySample] = []
    seen: set[int] = set()
    for lengths in parts(sample.tree, room):
        found.append(_part(sample, lengths, seen))
        seen |= lengths.keys()
    return found


def split_labelled(data: Labelled, room: int) -> list[Labelled]:
    """As `split`, of labelled states; for losses that are sums over single states, which do not compare them."""
    if num_tokens(data.tree) <= room:
        return [data]
    found = []
    for tree, states, at in split_states(data.tree, data.states, room):
        ends = {new for new, old in enumerate(at) if old in data.ends}
        labels = [data.labels[i] for i in at]
        solutions = 0 if found else data.num_solutions
        found.append(Labelled(tree, states, labels, list(states), solutions, ends, data.end_weight))
    return found


def split_states(
    tree: Tree, states: Sequence[State], room: int
) -> Iterator[tuple[Tree, list[State], list[int]]]:
    """Parts of a tree of at most `room` tokens each with the states that are in none before: as they are named there,
    and their places among `states`."""
    if num_tokens(tree) <= room:
        yield tree, list(states), list(range(len(states)))
        return
    seen: set[int] = set()
    for lengths in parts(tree, room):
        own, number = _cut(tree, lengths)
        at = [i for i, (node, _) in enumerate(states) if node in number and node not in seen]
        yield own, [(number[states[i][0]], states[i][1]) for i in at], at
        seen |= lengths.keys()


def _part(sample: PolicySample, lengths: dict[int, int], seen: set[int]) -> PolicySample:
    """A part of a sample, whose nodes in `seen` carry no loss."""
    own, number = _cut(sample.tree, lengths)
    return PolicySample(
        own,
        {number[i]: sample.advantages[i][:n] for i, n in lengths.items() if i in sample.advantages},
        {
            number[i]: sample.weights[i][:n] * (i not in seen)
            for i, n in lengths.items()
            if i in sample.weights
        },
        [t._replace(node=number[t.node]) for t in sample.targets if t.node in number and t.node not in seen],
        0.0 if seen else sample.count,
    )


def _cut(tree: Tree, lengths: dict[int, int]) -> tuple[Tree, dict[int, int]]:
    """The part of a tree, without scores, and its nodes' new numbers."""
    number = {old: new for new, old in enumerate(lengths)}
    nodes = [_beginning(tree.nodes[i], n, number) for i, n in lengths.items()]
    verdicts = {number[i]: v for i, v in tree.verdicts.items() if i in number}
    return Tree(tree.problem, nodes, verdicts, {}, tree.occurrence, tree.given), number


def _beginning(node: Node, length: int, number: dict[int, int]) -> Node:
    """The first tokens of a node, under its parent's new number."""
    return replace(
        node,
        parent=number.get(node.parent, node.parent),
        token_ids=node.token_ids[:length],
        logprobs=node.logprobs[:length],
        logprobs_full=node.logprobs_full[:length],
        entropy=node.entropy[:length],
        step_ends=tuple(e for e in node.step_ends if e < length),
    )
