"""Automatic step labels: what became of the independent continuations from the end of each step (Math-Shepherd)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from pydantic import Field

from reasoner.config import Config
from reasoner.records import StepLabels
from reasoner.registry import lookup
from reasoner.tree import ROOT, Tree, counts


class StepLabelConfig(Config):
    """How counts of correct continuations become labels."""

    kind: str = Field("soft", description="soft: c / n; hard: 1 if any continuation was correct")
    min_continuations: int = Field(1, ge=1, description="states with fewer judged continuations get no label")


def hard(n: int, c: int) -> float:
    """1 if any of n continuations was correct (Wang et al. 2024, equation 3)."""
    return float(c > 0)


def soft(n: int, c: int) -> float:
    """The share of continuations that were correct (Wang et al. 2024, equation 4)."""
    return c / n


KINDS: dict[str, Callable[[int, int], float]] = {"hard": hard, "soft": soft}


def step_labels(
    trees: Iterable[Tree], config: StepLabelConfig, decode: Callable[[Sequence[int]], str]
) -> Iterator[StepLabels]:
    """One record per trajectory: NaN where a step was not continued or is labelled in an earlier record already.

    The last step's label is the verdict itself. A chain's own remainder does not count among the
    continuations of its states: n and c are those of draws made from exactly that state.
    """
    label = lookup(KINDS, config.kind, "label kind")
    for tree in trees:
        prompt_ids = list(tree.nodes[ROOT].token_ids)
        counted = {
            (n.parent, n.offset): counts(tree, n.parent, n.offset) for n in tree.nodes[1:] if n.parent != ROOT
        }
        labelled: set[tuple[int, int]] = set()
        for leaf in tree.leaves():
            verdict = tree.verdicts.get(leaf)
            if verdict is None or verdict.status == "error" or not tree.step_ends(leaf):
                continue
            completion_ids = tree.completion_ids(leaf)
            labels: list[float] = []
            ns: list[int] = []
            cs: list[int] = []
            for end in tree.step_ends(leaf):
                state = counted.get((end.node, end.index + 1))
                n, c = (state.n, state.c) if state else (0, 0)
                is_new = (end.node, end.index) not in labelled
                labelled.add((end.node, end.index))
                if end.node == leaf and end.index + 1 == len(tree.nodes[leaf].token_ids):
                    n, c = 1, int(verdict.status == "correct")
                    labels.append(float(c))
                else:
                    known = is_new and n >= config.min_continuations
                    labels.append(label(n, c) if known else float("nan"))
                ns.append(n)
                cs.append(c)
            yield StepLabels(
                problem_id=tree.problem.id,
                prompt=decode(prompt_ids),
                completions=_texts(tree, leaf, decode),
                labels=labels,
                prompt_ids=prompt_ids,
                completion_ids=completion_ids,
                step_ends=_positions(tree, leaf),
                n=ns,
                c=cs,
                kind=config.kind,
                weights_version=tree.nodes[leaf].weights_version,
                source=tree.problem.source,
                licence=tree.problem.licence,
            )


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
