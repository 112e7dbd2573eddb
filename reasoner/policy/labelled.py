"""Labelled solutions of one prompt laid into one tree, so that a reward model computes each shared prefix once.

Solutions come as rows of token ids, sampled or imported; whatever prefixes are equal token by token become the
same nodes. A reward model is causal, so what it reads at a state does not change by the merge, and neither do
loss and gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from reasoner.records import OutcomeLabel, StepLabels
from reasoner.tree import ROOT, Node, Problem, Tree

State = tuple[int, int]  # (node, offset): the prefix that ends after `offset` tokens of that node


@dataclass
class Labelled:
    """A tree and the states of it that have a label.

    `states[i]` has the label `labels[i]` in [0, 1]; a state has several where several solutions say something
    of it. `groups[i]` is the state in which the labelled step began: steps of one group are alternatives. `ends` are
    the labels (by number) at the end of a whole solution, of which each counts `end_weight` beside the 1 of others.
    """

    tree: Tree
    states: list[State] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    groups: list[State] = field(default_factory=list)
    num_solutions: int = 0
    ends: set[int] = field(default_factory=set)
    end_weight: float = 1.0

    def weight(self, i: int) -> float:
        """What label i counts."""
        return self.end_weight if i in self.ends else 1.0


class Trie:
    """A tree that grows by whole sequences and stores each prefix once."""

    def __init__(self, problem: Problem, prompt_ids: Sequence[int]):
        self.tree = Tree.of_prompt(problem, list(prompt_ids))
        self._next: dict[tuple[int, int, int], int] = {}  # (node, offset, token) to the child that begins so

    def add(self, completion_ids: Sequence[int]) -> list[State]:
        """Add a continuation of the prompt; returns its states, from the end of the prompt to its own end."""
        node, offset = ROOT, len(self.tree.nodes[ROOT].token_ids)
        states = [(node, offset)]
        for at, token in enumerate(completion_ids):
            own = self.tree.nodes[node].token_ids
            child = self._next.get((node, offset, token))
            if offset < len(own) and own[offset] == token:
                offset += 1
            elif child is not None:
                node, offset = child, 1
            else:
                child = self.tree.add(Node(node, offset, tuple(completion_ids[at:])))
                self._next[node, offset, token] = child
                node, offset = child, 1
            states.append((node, offset))
        return states

    @property
    def num_tokens(self) -> int:
        return sum(len(n.token_ids) for n in self.tree.nodes)


def from_steps(records: Iterable[StepLabels], max_tokens: int, end_weight: float = 1.0) -> list[Labelled]:
    """The labelled steps of each prompt's solutions; steps without a label (NaN) are context only.

    `end_weight` is what a label at the end of a whole solution counts, where others count 1.
    """

    def read(record: StepLabels, states: list[State], into: Labelled) -> None:
        ends = [states[0], *(states[e + 1] for e in record.step_ends)]
        into.end_weight = end_weight
        for began, ended, label in zip(ends[:-1], ends[1:], record.labels, strict=True):
            if not math.isnan(label):
                if record.is_whole and ended == states[-1]:
                    into.ends.add(len(into.labels))
                into.states.append(ended)
                into.labels.append(label)
                into.groups.append(began)

    known = (r for r in records if not all(map(math.isnan, r.labels)))
    return list(_merged(known, max_tokens, read))


def from_outcomes(records: Iterable[OutcomeLabel], max_tokens: int) -> list[Labelled]:
    """One label at the end of each solution; alternatives are the solutions of one prompt."""

    def read(record: OutcomeLabel, states: list[State], into: Labelled) -> None:
        into.states.append(states[-1])
        into.labels.append(float(record.label))
        into.groups.append(states[0])

    return list(_merged((r for r in records if r.completion_ids), max_tokens, read))


def all_tokens(labelled: Labelled) -> Labelled:
    """Each label at every token of the path that leads to it (the token-level verifier of Cobbe et al. 2021)."""
    found = Labelled(labelled.tree, num_solutions=labelled.num_solutions)
    for (node, offset), label, group in zip(labelled.states, labelled.labels, labelled.groups, strict=True):
        path = labelled.tree.path(node, offset)[1:]
        states = [(span.node, at + 1) for span in path for at in range(span.end)]
        found.states += states
        found.labels += [label] * len(states)
        found.groups += [group] * len(states)
    return found


def idle() -> Labelled:
    """A label on two tokens: what a process without work computes, for no loss, to stay in step with the others."""
    tree = Tree.of_prompt(Problem("", "", "", {}), [0])
    tree.add(Node(ROOT, 1, (0,)))
    return Labelled(tree, [(1, 1)], [0.5], [(ROOT, 1)], 1)


def divided(labelled: Labelled, most_tokens: int, together: bool) -> list[Labelled]:
    """The labels in several lots, each with the part of the tree that leads to its states.

    A lot's tree has at most `most_tokens`, or what a single state (with `together`, a group of alternatives) needs.
    Prefixes that several lots need are in each of them.
    """
    units: dict[State, list[int]] = {}
    for i, state in enumerate(labelled.states):
        units.setdefault(labelled.groups[i] if together else state, []).append(i)
    lots: list[list[int]] = []
    needed: dict[int, int] = {}
    for _, unit in sorted(units.items()):
        wider = _needed(labelled, unit, needed)
        if lots and sum(wider.values()) <= most_tokens:
            lots[-1] += unit
        else:
            lots.append(list(unit))
            wider = _needed(labelled, unit, {})
        needed = wider
    return [_part(labelled, lot) for lot in lots]


def _needed(labelled: Labelled, labels: Iterable[int], known: dict[int, int]) -> dict[int, int]:
    """How many tokens of which nodes these labels' states and `known` need."""
    needed = dict(known)
    for i in labels:
        for span in labelled.tree.path(*labelled.states[i]):
            needed[span.node] = max(span.end, needed.get(span.node, 0))
    return needed


def _part(labelled: Labelled, labels: Sequence[int]) -> Labelled:
    """The labels with the part of the tree that leads to them."""
    needed = _needed(labelled, labels, {})
    number = {node: i for i, node in enumerate(sorted(needed))}
    tree = Tree.of_prompt(labelled.tree.problem, list(labelled.tree.nodes[ROOT].token_ids))
    for node in sorted(needed)[1:]:
        old = labelled.tree.nodes[node]
        tree.add(Node(number[old.parent], old.offset, old.token_ids[: needed[node]]))
    found = Labelled(tree, num_solutions=labelled.num_solutions)
    for i in labels:
        (node, offset), (began, at) = labelled.states[i], labelled.groups[i]
        found.states.append((number[node], offset))
        found.labels.append(labelled.labels[i])
        found.groups.append((number[began], at))
    return found


def _merged(records, max_tokens: int, read) -> Iterator[Labelled]:
    """One tree per prompt, or several where one would pass `max_tokens`."""
    by_prompt: dict[tuple[str, tuple[int, ...]], list] = {}
    for record in records:
        by_prompt.setdefault((record.problem_id, tuple(record.prompt_ids)), []).append(record)
    for (problem_id, prompt_ids), of_prompt in by_prompt.items():
        trie, found = None, None
        for record in of_prompt:
            if trie is None or found is None or trie.num_tokens + len(record.completion_ids) > max_tokens:
                if found is not None:
                    yield found
                trie = Trie(Problem(problem_id, "", "", {}), prompt_ids)
                found = Labelled(trie.tree)
            read(record, trie.add(record.completion_ids), found)
            found.num_solutions += 1
        if found is not None:
            yield found
