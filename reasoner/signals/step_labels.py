"""Automatic step labels: what became of the independent continuations from the end of each step (Math-Shepherd).

A label tells how good a state is for the model that continued it, not whether the step is right: with hard
labels a wrong step counts as good once one continuation recovers (see tests/signals/markov.py for how often).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from reasoner.config import Config, Entry
from reasoner.records import StepLabels
from reasoner.registry import lookup
from reasoner.tree import ROOT, Counts, Tree, counts

NAN = float("nan")
NO_ERROR, UNDECIDED = -1, -2


class StepLabelConfig(Config):
    """How counts of correct continuations become labels."""

    kind: Annotated[str, Entry("label kind", "reasoner.signals.step_labels:KINDS")] = Field(
        default="soft",
        description="soft: c / n; hard: 1 if any continuation was correct; posterior: mean (c + 1) / (n + 2) of the "
        "Beta posterior; spread: as hard, along the chain: a success shows all steps before it good, "
        "the first failure all later ones bad",
    )
    ends: Annotated[str, Entry("choice of chain ends", "reasoner.signals.step_labels:ENDS")] = Field(
        default="prompt",
        description="which chains have their own verdict as the label of their last step: prompt (those drawn from the "
        "prompt; a continuation that was drawn to estimate a state labels that state alone) | all | none",
    )
    min_continuations: int = Field(
        default=1, ge=1, description="states with fewer judged continuations get no label"
    )
    drop_after_error: bool = Field(
        default=False,
        description="no labels after a solution's first step of label 0, for a model of first errors",
    )
    only_mixed: bool = Field(
        default=False,
        description="leave out problems whose chains from the prompt are all right or all wrong (labels of too easy "
        "and too hard problems are noisy)",
    )


class Chain(list[Counts]):
    """Counts at the step ends of one trajectory; the last is its own verdict alone, n = 1."""


def soft(chain: Chain, least: int) -> list[float]:
    """The share of continuations that were correct (Wang et al. 2024, equation 4)."""
    return [s.c / s.n if s.n >= least else NAN for s in chain[:-1]] + _own(chain)


def hard(chain: Chain, least: int) -> list[float]:
    """1 if any continuation was correct (Wang et al. 2024, equation 3)."""
    return [float(s.c > 0) if s.n >= least else NAN for s in chain[:-1]] + _own(chain)


def posterior(chain: Chain, least: int) -> list[float]:
    """Mean of Beta(1 + c, 1 + n - c), the posterior of a state's value under a uniform prior."""
    return [(s.c + 1) / (s.n + 2) if s.n >= least else NAN for s in chain[:-1]] + _own(chain)


def spread(chain: Chain, least: int) -> list[float]:
    """Hard labels where few states were probed: steps between the last success and the first failure have none.

    A chain that ends right is itself a success from each of its states (Luo et al. 2024, section 3.2). Successes
    after the first failure are recoveries and say nothing of the steps before it.
    """
    if chain[-1].c:
        return [1.0] * len(chain)
    failed = next(i for i, s in enumerate(chain) if not s.c and s.n and (s.n >= least or i == len(chain) - 1))
    reached = max((i for i, s in enumerate(chain[:failed]) if s.c), default=-1)
    return [1.0 if i <= reached else 0.0 if i >= failed else NAN for i in range(len(chain))]


def _own(chain: Chain) -> list[float]:
    return [float(chain[-1].c)]


KINDS: dict[str, Callable[[Chain, int], list[float]]] = {
    "soft": soft,
    "hard": hard,
    "posterior": posterior,
    "spread": spread,
}


ENDS: dict[str, Callable[[bool], bool]] = {
    "prompt": lambda is_from_prompt: is_from_prompt,
    "all": lambda is_from_prompt: True,
    "none": lambda is_from_prompt: False,
}


def step_labels(
    trees: Iterable[Tree], config: StepLabelConfig, decode: Callable[[Sequence[int]], str]
) -> Iterator[StepLabels]:
    """One record per trajectory: NaN where a step was not continued or is labelled in an earlier record already.

    The last step's label is the verdict itself, of the chains that `ends` names; of the others only states that were
    continued have labels, and those without any have no record. A chain's own remainder does not count among the
    continuations of its states: n and c are those of draws made from exactly that state.
    """
    label = lookup(KINDS, config.kind, "label kind")
    has_end = lookup(ENDS, config.ends, "choice of chain ends")
    for tree in trees:
        if config.only_mixed and not is_mixed(tree):
            continue
        prompt_ids = list(tree.nodes[ROOT].token_ids)
        counted = {
            (n.parent, n.offset): counts(tree, n.parent, n.offset) for n in tree.nodes[1:] if n.parent != ROOT
        }
        labelled: set[tuple[int, int]] = set()
        for leaf in tree.leaves():
            verdict = tree.verdicts.get(leaf)
            ends = tree.step_ends(leaf)
            if verdict is None or verdict.status == "error" or not ends:
                continue
            chain, is_closed = along(tree, leaf, counted)
            own = Chain(chain if is_closed else [*chain, Counts(1, int(verdict.status == "correct"), 0)])
            labels = label(own, config.min_continuations)[: len(ends)]
            found_at = first_error(labels)
            if config.drop_after_error:
                labels = until_error(labels)
            seen = [(e.node, e.index) in labelled and i + 1 < len(own) for i, e in enumerate(ends)]
            labelled.update((e.node, e.index) for e in ends)
            if not has_end(is_from_prompt(tree, leaf)):
                last = len(ends) - 1 if is_closed else len(ends)
                labels = [
                    y if s.n and i < last else NAN for i, (y, s) in enumerate(zip(labels, chain, strict=True))
                ]
            labels = [NAN if s else y for s, y in zip(seen, labels, strict=True)]
            if all(map(math.isnan, labels)):
                continue
            yield StepLabels(
                problem_id=tree.problem.id,
                prompt=tree.problem.prompt,
                completions=_texts(tree, leaf, decode),
                labels=labels,
                prompt_ids=prompt_ids,
                completion_ids=tree.completion_ids(leaf),
                step_ends=_positions(tree, leaf),
                n=[s.n for s in chain],
                c=[s.c for s in chain],
                kind=config.kind,
                weights_version=version_of(tree, leaf),
                first_errors=[found_at],
                source=tree.problem.source,
                licence=tree.problem.licence,
            )


def along(tree: Tree, leaf: int, counted: Mapping[tuple[int, int], Counts]) -> tuple[Chain, bool]:
    """Counts at the step ends of a judged trajectory; and whether the last step ends with it, which then has its verdict."""
    ends = tree.step_ends(leaf)
    chain = Chain(counted.get((e.node, e.index + 1), Counts(0, 0, 0)) for e in ends)
    is_closed = ends[-1].node == leaf and ends[-1].index + 1 == len(tree.nodes[leaf].token_ids)
    if is_closed:
        chain[-1] = Counts(1, int(tree.verdicts[leaf].status == "correct"), 0)
    return chain, is_closed


def is_from_prompt(tree: Tree, leaf: int) -> bool:
    """Whether a trajectory was drawn from the prompt on: no node of it begins in the middle of another's tokens."""
    path = [span.node for span in tree.path(leaf)[1:]]
    return all(tree.nodes[i].offset == len(tree.nodes[tree.nodes[i].parent].token_ids) for i in path)


def first_error(labels: Sequence[float]) -> int:
    """Index of the first step of label 0; NO_ERROR where all are above; UNDECIDED where a step before it has none."""
    for i, label in enumerate(labels):
        if math.isnan(label):
            return UNDECIDED
        if label <= 0:
            return i
    return NO_ERROR


def until_error(labels: Sequence[float]) -> list[float]:
    """The labels up to the first of 0; later steps have none (Lightman et al. 2023, section 2.6)."""
    at = next((i for i, y in enumerate(labels) if y <= 0), len(labels))
    return [y if i <= at else NAN for i, y in enumerate(labels)]


NEUTRAL: dict[str, float] = {"good": 1.0, "half": 0.5, "bad": 0.0, "drop": NAN}


def with_neutral(records: Iterable[StepLabels], choice: str) -> Iterator[StepLabels]:
    """People's labels of one half (neither right nor wrong) as `choice` wants them; other kinds stay as they are."""
    neutral = lookup(NEUTRAL, choice, "choice for neutral labels")
    for record in records:
        if record.kind == "human":
            record = replace(record, labels=[neutral if y == 0.5 else y for y in record.labels])
        yield record


def is_mixed(tree: Tree) -> bool:
    """Whether the independent chains from the prompt are neither all right nor all wrong: 0 < c < n."""
    root = counts(tree, ROOT, len(tree.nodes[ROOT].token_ids))
    return 0 < root.c < root.n


def version_of(tree: Tree, leaf: int) -> int:
    """The oldest version of the weights that continued this trajectory's states (its own where none was continued)."""
    path = {span.node for span in tree.path(leaf)[1:]}
    drawn = [n.weights_version for n in tree.nodes[1:] if n.parent in path]
    return min(drawn, default=tree.nodes[leaf].weights_version)


def is_stale(tree: Tree, version: int) -> bool:
    """Whether a continuation from inside a chain was drawn by weights older than `version`."""
    return any(n.weights_version < version for n in tree.nodes[1:] if n.parent != ROOT)


def chains_only(tree: Tree) -> Tree:
    """The chains from the prompt with their verdicts, without what was drawn from inside them."""
    kept = Tree(tree.problem, [tree.nodes[ROOT]])
    for i in tree.children(ROOT):
        node = kept.add(tree.nodes[i])
        if i in tree.verdicts:
            kept.verdicts[node] = tree.verdicts[i]
    return kept


def _positions(tree: Tree, leaf: int) -> list[int]:
    """Positions of the step ends among the trajectory's completion tokens."""
    begin: dict[int, int] = {}
    at = 0
    for span in tree.path(leaf)[1:]:
        begin[span.node] = at
        at += span.end
    return [begin[e.node] + e.index for e in tree.step_ends(leaf)]


def _texts(tree: Tree, leaf: int, decode: Callable[[Sequence[int]], str]) -> list[str]:
    ids = tree.completion_ids(leaf)
    ends = _positions(tree, leaf)
    starts = [0, *(e + 1 for e in ends[:-1])]
    return [decode(ids[a : b + 1]) for a, b in zip(starts, ends, strict=True)]
