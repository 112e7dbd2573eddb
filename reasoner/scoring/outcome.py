"""Verdicts on the ends of trajectories, from the verifier that each problem names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from reasoner.tree import Tree
from verifiers import Verdict, verify, verify_many


def judge(
    trees: Sequence[Tree],
    decode: Callable[[Sequence[int]], str],
    on_progress: Callable[[int], None] = lambda done: None,
) -> Counter[str]:
    """Give every leaf without a verdict one; returns how many got each status.

    An error is retried once alone; an error twice on the same response is `incorrect`, since else
    breaking the checker would pay.
    """
    texts: dict[tuple[int, int], str] = {
        (t, leaf): decode(tree.completion_ids(leaf))
        for t, tree in enumerate(trees)
        for leaf in tree.leaves()
        if leaf not in tree.verdicts
    }
    requests = (
        (at, trees[at[0]].problem.verifier, text, trees[at[0]].problem.reference)
        for at, text in texts.items()
    )
    statuses: Counter[str] = Counter()
    for done, (at, verdict) in enumerate(verify_many(requests), start=1):
        tree, leaf = trees[at[0]], at[1]
        if verdict.status == "error":
            verdict = _again(tree, texts[at], verdict)
        tree.verdicts[leaf] = verdict
        statuses[verdict.status] += 1
        on_progress(done)
    return statuses


def _again(tree: Tree, text: str, first: Verdict) -> Verdict:
    second = verify(tree.problem.verifier, text, tree.problem.reference)
    if second.status != "error":
        return second
    return replace(
        second,
        status="incorrect",
        reason="refused",
        detail=f"failed twice: {first.detail}; {second.detail}"[:500],
    )


def outcome_reward(verdict: Verdict | None) -> float | None:
    """1 for correct, 0 for incorrect or no answer; None (to be masked) where our side failed or nothing was judged."""
    if verdict is None or verdict.status == "error":
        return None
    return float(verdict.status == "correct")
