"""The data that every stage shares: problems, and trees of sampled continuations (standard library only).

A node is one continuation exactly as the engine returned it. A branch in the middle of a node is a new node
with an offset, so stored nodes are never split, children always come after their parents, and a backup is
one reverse pass. A state is (node, offset): the prefix that ends after `offset` tokens of that node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from verifiers import Verdict

ROOT = 0
NO_PARENT = -1


@dataclass(frozen=True)
class Problem:
    """A question and how its answer is checked; `reference` is exactly that verifier's keyword arguments."""

    id: str
    prompt: str
    verifier: str
    reference: dict[str, Any]
    domain: str = ""
    source: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Node:
    """One sampled continuation of its parent's first `offset` tokens.

    `logprobs` are under the distribution that was sampled from, `logprobs_full` under the whole softmax at
    temperature 1; these and `entropy` (nats) hold one number per token and are empty for text that was not
    sampled here. `step_ends` are positions in `token_ids` of the last token of each step. `propensity` is
    the probability with which the node was kept or chosen; `drawn` tells an independent sample from a
    continuation that a search chose. `stop_reason` is the engine's (see engine/protocol), or `open` where a
    search paused at a step's end, or `pruned:<rule>` in an empty node that stands for a continuation which
    was planned and not drawn (its `propensity` is the chance that it had).
    """

    parent: int
    offset: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    logprobs_full: tuple[float, ...] = ()
    entropy: tuple[float, ...] = ()
    step_ends: tuple[int, ...] = ()
    stop_reason: str = "eos"
    weights_version: int = 0
    adapter: str = ""
    propensity: float = 1.0
    drawn: str = "independent"

    @property
    def is_finished(self) -> bool:
        """False where a completion has not come to its end: paused, never drawn, or stopped from outside."""
        return not self.is_pruned and self.stop_reason not in ("open", "cancelled")

    @property
    def is_pruned(self) -> bool:
        return self.stop_reason.startswith("pruned")


class Span(NamedTuple):
    """Tokens `start` (inclusive) to `end` (exclusive) of one node."""

    node: int
    start: int
    end: int


class StepEnd(NamedTuple):
    """The last token of a step: position `index` among `node`'s tokens; `ordinal` counts the node's own steps."""

    node: int
    index: int
    ordinal: int


@dataclass
class Tree:
    """Continuations of one prompt: node 0 holds the prompt, verdicts and scores lie beside the nodes.

    `verdicts[node]` judges the trajectory that ends with that node; `scores[name][node]` holds one number
    per step end of the node, in order. `occurrence` counts the trees that the same problem had before in
    its round, so that each of them draws its own. The last `given` tokens of node 0 are no prompt: they are the
    beginning of a solution, which was given and not drawn here.
    """

    problem: Problem
    nodes: list[Node] = field(default_factory=list)
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    scores: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    occurrence: int = 0
    given: int = 0

    @classmethod
    def of_prompt(
        cls, problem: Problem, prompt_ids: list[int], occurrence: int = 0, given: Sequence[int] = ()
    ) -> Tree:
        root = Node(NO_PARENT, 0, (*prompt_ids, *given), stop_reason="prompt")
        return cls(problem, [root], occurrence=occurrence, given=len(given))

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.nodes[ROOT].token_ids) - self.given

    def add(self, node: Node) -> int:
        """Append a node and return its id; its parent must be there and have at least `offset` tokens."""
        if not 0 <= node.parent < len(self.nodes):
            raise ValueError(
                f"node's parent is {node.parent}, expected one of the {len(self.nodes)} nodes so far"
            )
        if not 0 <= node.offset <= len(self.nodes[node.parent].token_ids):
            have = len(self.nodes[node.parent].token_ids)
            raise ValueError(f"node's offset is {node.offset}, expected 0 to its parent's {have} tokens")
        self.nodes.append(node)
        return len(self.nodes) - 1

    def children(self, node: int, offset: int | None = None) -> list[int]:
        """Ids of the continuations of `node`, or of the state (node, offset)."""
        return [
            i for i, n in enumerate(self.nodes) if n.parent == node and (offset is None or n.offset == offset)
        ]

    def leaves(self) -> list[int]:
        """Nodes that end a trajectory: finished ones that nothing continues from their last token."""
        continued = {n.parent for n in self.nodes[1:] if n.offset == len(self.nodes[n.parent].token_ids)}
        return [i for i in range(1, len(self.nodes)) if i not in continued and self.nodes[i].is_finished]

    def path(self, node: int, end: int | None = None) -> list[Span]:
        """The spans from the root to `end` tokens into `node` (all of it by default)."""
        spans: list[Span] = []
        stop = len(self.nodes[node].token_ids) if end is None else end
        while node != NO_PARENT:
            spans.append(Span(node, 0, stop))
            stop = self.nodes[node].offset
            node = self.nodes[node].parent
        return spans[::-1]

    def token_ids(self, node: int, end: int | None = None) -> list[int]:
        """Token ids from the prompt's first to `end` tokens into `node`."""
        return [t for s in self.path(node, end) for t in self.nodes[s.node].token_ids[: s.end]]

    def completion_ids(self, node: int, end: int | None = None) -> list[int]:
        """As `token_ids`, without the prompt; what was given of the solution is part of it."""
        root, *drawn = self.path(node, end)
        given = self.nodes[ROOT].token_ids[self.num_prompt : root.end]
        return [*given, *(t for s in drawn for t in self.nodes[s.node].token_ids[: s.end])]

    def step_ends(self, node: int) -> list[StepEnd]:
        """The step ends on the path from the root to the end of `node`, in order."""
        return [
            StepEnd(s.node, index, ordinal)
            for s in self.path(node)
            for ordinal, index in enumerate(self.nodes[s.node].step_ends)
            if index < s.end
        ]

    def path_scores(self, name: str, node: int) -> list[float]:
        """The scores called `name` at the step ends of the trajectory that ends with `node`."""
        return [self.scores[name][e.node][e.ordinal] for e in self.step_ends(node)]

    def trajectories(self) -> Iterator[Trajectory]:
        for leaf in self.leaves():
            yield Trajectory(self, leaf)

    @property
    def num_sampled(self) -> int:
        """Tokens sampled for this tree, each shared prefix once."""
        return sum(len(n.token_ids) for n in self.nodes[1:])


@dataclass(frozen=True)
class Trajectory:
    """A root-to-leaf view of a tree."""

    tree: Tree
    leaf: int

    @property
    def completion_ids(self) -> list[int]:
        return self.tree.completion_ids(self.leaf)

    @property
    def verdict(self) -> Verdict | None:
        return self.tree.verdicts.get(self.leaf)

    @property
    def step_ends(self) -> list[StepEnd]:
        return self.tree.step_ends(self.leaf)

    @property
    def is_independent(self) -> bool:
        """True for a sample drawn straight from the prompt: the only kind that pass@k may count."""
        node = self.tree.nodes[self.leaf]
        return node.parent == ROOT and node.drawn == "independent"


class Counts(NamedTuple):
    """Independent continuations drawn from one state: `n` judged, `c` of them correct, `errors` not judged."""

    n: int
    c: int
    errors: int


def counts(tree: Tree, node: int, offset: int) -> Counts:
    """n, c and errors of the continuations drawn from exactly the state (node, offset)."""
    n = c = errors = 0
    for child in tree.children(node, offset):
        verdict = tree.verdicts.get(child)
        if verdict is None or tree.nodes[child].drawn != "independent":
            continue
        if verdict.status == "error":
            errors += 1
        else:
            n += 1
            c += verdict.status == "correct"
    return Counts(n, c, errors)


def outcome_reward(verdict: Verdict | None) -> float | None:
    """1 for correct, 0 for incorrect or no answer; None (to be masked) where our side failed or nothing was judged."""
    if verdict is None or verdict.status == "error":
        return None
    return float(verdict.status == "correct")
