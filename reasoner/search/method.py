"""What every test-time method shares: the tools that it may use, the choice that it returns, and its waves.

A method is a function (trees, tools, config) -> one Choice per tree. It grows the trees through `tools` only,
and everything that a tool does is booked in the ledger behind it, so a method cannot have anything for free.
Reward models, verifiers and token measures are arguments: search knows none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import Field

from reasoner.config import Config, Entry
from reasoner.engine.protocol import Engine, Sampling
from reasoner.registry import UserError, lookup
from reasoner.search.answers import answer_classes, read_answer
from reasoner.search.grow import Branch, Growth, grow_once, put_in
from reasoner.search.thinking import Thinking, grow_within
from reasoner.tree import ROOT, Tree

INDEPENDENT, TREE = "independent", "tree"


# named and not imported: a search gets its scorer as an argument
AggregateName = Annotated[str, Entry("aggregate", "reasoner.scoring.aggregate:AGGREGATES")]


class Sampled(Config):
    """What all methods that sample have in common."""

    label: str = Field("", description="name in reports; empty: made from the method and its scorer")
    temperature: float = Field(1.0, ge=0, description="sampling temperature; 0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus of the next-token distribution")
    top_k: int = Field(0, ge=0, description="most probable tokens to draw from; 0: all")

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p)


LeafScores = list[dict[int, float]]
TokenMeasure = list[dict[int, tuple[float, ...]]]


@dataclass(frozen=True)
class Tools:
    """An engine with how to read and write text, and what may judge; a judge that is not there is None.

    `prm` sets tree.scores["prm"] at every step end; `orm` gives a score in [0, 1] per leaf; `verify` sets
    tree.verdicts on leaves (only for problems whose answers can be checked when they are asked).
    `measure` gives one number per token of each node by the name of the measure; `first_tokens` the k most
    probable tokens after each prefix; `aggregates` turn a PRM's step scores into the score of a trajectory. `thinking`
    is the budget of each chain's thoughts, which `extend` keeps.
    """

    engine: Engine
    growth: Growth
    decode: Callable[[Sequence[int]], str]
    encode: Callable[[str], list[int]]
    prm: Callable[[Sequence[Tree]], None] | None = None
    orm: Callable[[Sequence[Tree]], LeafScores] | None = None
    verify: Callable[[Sequence[Tree]], None] | None = None
    measure: Callable[[Sequence[Tree], str], TokenMeasure] | None = None
    first_tokens: Callable[[Sequence[Sequence[int]], int], list[list[int]]] | None = None
    aggregates: Mapping[str, Callable[[Sequence[float]], float]] = field(default_factory=dict)
    on_progress: Callable[[int, int], None] = lambda done, total: None
    thinking: Thinking | None = None


@dataclass(frozen=True)
class Choice:
    """The answer that a method gives: the leaf that ends its trajectory (None: nothing was finished).

    `votes` are the weights of the answers that stood for choice; `confidence` is in [0, 1]; `drawn` tells
    whether they were independent samples or leaves of a tree, which no pass@k may count.
    """

    leaf: int | None
    answer: str | None = None
    confidence: float = 0.0
    votes: dict[str, float] = field(default_factory=dict)
    drawn: str = INDEPENDENT


def need(tool, what: str, method: str):
    """The tool, or one line that says which is missing."""
    if tool is None:
        raise UserError(
            f"method {method} needs {what}, but none is given; expected one: set {what} beside the model, or drop the method"
        )
    return tool


def prm_score(tree: Tree, node: int, aggregate: str, tools: Tools) -> float:
    """The aggregate of the PRM's step scores from the root to a node's end; 0 for a path without steps."""
    scores = tree.path_scores("prm", node)
    return lookup(tools.aggregates, aggregate, "aggregate")(scores) if scores else 0.0


def extend(
    trees: Sequence[Tree],
    branches: Sequence[Sequence[Branch]],
    tools: Tools,
    sampling: Sampling,
    stop_ids: frozenset[int] = frozenset(),
    max_tokens: int | None = None,
    one_step: bool = False,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[list[int]]:
    """One wave over all trees: continue each tree's branches; the last new node of each, in the order of the branches.

    With `one_step` each continuation pauses where its first step ends. A budget of thinking closes thoughts. `on_progress`
    counts the trees whose branches have all come back.
    """
    growth = replace(
        tools.growth,
        sampling=sampling,
        stop_ids=stop_ids,
        max_tokens=max_tokens or tools.growth.max_tokens,
        is_part=(max_tokens or tools.growth.max_tokens) < tools.growth.max_tokens,
    )
    wanted = [[replace(b, one_step=one_step) for b in of_tree] for of_tree in branches]
    if tools.thinking is None:
        return grow_once(trees, wanted, tools.engine, growth, on_progress)
    return grow_within(tools.thinking, trees, wanted, tools.engine, growth, tools.decode, tools.encode)


def from_root(tree: Tree, num: int, drawn: str = "independent") -> list[Branch]:
    """`num` continuations of the prompt."""
    return [Branch(ROOT, len(tree.nodes[ROOT].token_ids), drawn)] * num


def from_end(tree: Tree, node: int, num: int = 1, drawn: str = "search") -> list[Branch]:
    """`num` continuations of all of a node."""
    return [Branch(node, len(tree.nodes[node].token_ids), drawn)] * num


def force(tree: Tree, parent: int, offset: int, token_ids: Sequence[int], tools: Tools, reason: str) -> int:
    """Add tokens that nobody sampled (they have no log-probabilities); the new node's id."""
    return put_in(tree, parent, offset, token_ids, tools.growth, reason)


def is_finished(tree: Tree, node: int) -> bool:
    """Whether the model itself ended the trajectory here."""
    return tree.nodes[node].stop_reason == "eos"


def has_room(tree: Tree, node: int, tools: Tools) -> bool:
    """Whether a trajectory that did not end may go on: the token budget and the context leave room."""
    length = len(tree.completion_ids(node))
    prompt = len(tree.nodes[ROOT].token_ids)
    return length < tools.growth.max_tokens and prompt + length < tools.engine.max_context


def answer_of(tree: Tree, leaf: int, tools: Tools) -> str | None:
    return read_answer(tree.problem, tools.decode(tree.completion_ids(leaf)))


def classes_of(tree: Tree, leaves: Sequence[int], tools: Tools) -> tuple[list[str | None], list[int | None]]:
    """The answers at the ends of trajectories, and their equivalence classes."""
    answers = [answer_of(tree, leaf, tools) for leaf in leaves]
    return answers, answer_classes(tree.problem, answers)


def choice_among(
    tree: Tree, leaves: Sequence[int], weights: Sequence[float], index: int | None, confidence: float,
    tools: Tools, drawn: str,
) -> Choice:  # fmt: skip
    """The Choice of leaves[index], with the weights summed by answer as its votes."""
    if index is None:
        return Choice(None, drawn=drawn)
    answers, classes = classes_of(tree, leaves, tools)
    votes: dict[int, float] = {}
    for number, weight in zip(classes, weights, strict=True):
        if number is not None:
            votes[number] = votes.get(number, 0.0) + weight
    spelled = {n: answers[classes.index(n)] or "" for n in votes}
    return Choice(leaves[index], answers[index], confidence, {spelled[n]: w for n, w in votes.items()}, drawn)
