"""Trees that are larger than a batch, cut into smaller ones that together have the same gradient.

A token's hidden state hangs on its ancestors alone. So each part holds whole paths from the root on, and what several
parts share carries loss in the first of them only; the others compute it again, without loss.
"""

from __future__ import annotations

from dataclasses import replace

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


def _part(sample: PolicySample, lengths: dict[int, int], seen: set[int]) -> PolicySample:
    """A part of a sample, whose nodes in `seen` carry no loss."""
    tree, number = sample.tree, {old: new for new, old in enumerate(lengths)}
    own = Tree(tree.problem, [_beginning(tree.nodes[i], n, number) for i, n in lengths.items()],
               {number[i]: v for i, v in tree.verdicts.items() if i in number}, {}, tree.occurrence, tree.given)  # fmt: skip
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
