"""Whole completions with their verdicts, for an outcome reward model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from reasoner.records import OutcomeLabel
from reasoner.tree import ROOT, Tree


def outcome_labels(trees: Iterable[Tree], decode: Callable[[Sequence[int]], str]) -> Iterator[OutcomeLabel]:
    """One record per judged trajectory; those that our side failed to judge are left out."""
    for tree in trees:
        prompt_ids = list(tree.nodes[ROOT].token_ids)
        for leaf in tree.leaves():
            verdict = tree.verdicts.get(leaf)
            if verdict is None or verdict.status == "error":
                continue
            ids = tree.completion_ids(leaf)
            yield OutcomeLabel(
                problem_id=tree.problem.id,
                prompt=decode(prompt_ids),
                completion=decode(ids),
                label=verdict.status == "correct",
                prompt_ids=prompt_ids,
                completion_ids=ids,
                source=tree.problem.source,
                licence=tree.problem.licence,
            )
