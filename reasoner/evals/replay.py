"""Evaluate samples that were made elsewhere (reasoner/evals/recorded.py): the same estimators as for our own.

Where no verdict is recorded the responses are verified against the problems of a config, found by prompt or by id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from reasoner.evals.no_answers import no_answer_rows
from reasoner.evals.recorded import Group
from reasoner.metrics.at_k import best_of_k, fit_coverage, maj_at_k, pass_at_k, pass_hat_k
from reasoner.registry import UserError
from reasoner.report.rows import MetricRow, mean_row
from reasoner.scoring.aggregate import AGGREGATES, BESIDE
from reasoner.search.answers import answer_classes
from reasoner.tree import Problem
from verifiers import verify_many


def verify_groups(groups: Sequence[Group], problems: Sequence[Problem], path: Path) -> list[MetricRow]:
    """Set `correct` and `answers` by the problems' own verifiers; what our side fails to judge stays None.

    Returns a row where most responses held no answer.
    """
    by_prompt, by_id = {p.prompt: p for p in problems}, {p.id: p for p in problems}
    found = {i: by_prompt.get(g.prompt) or by_id.get(g.id) for i, g in enumerate(groups)}
    lost = [groups[i].id for i, p in found.items() if p is None]
    if lost:
        raise UserError(
            f"{len(lost)} problems of {path} are not in the config's problem sets, first {lost[0][:60]!r}; "
            "expected the same ids or prompts"
        )
    for group in groups:
        group.correct, group.answers = [None] * group.n, [None] * group.n
    requests = (
        ((i, j), p.verifier, response, p.reference)
        for i, p in found.items()
        if p is not None
        for j, response in enumerate(groups[i].responses)
    )
    statuses: list[tuple[Problem, str]] = []
    for at, verdict in verify_many(requests):
        i, j = at  # type: ignore[misc]
        statuses.append((found[i], verdict.status))  # type: ignore[arg-type]
        groups[i].correct[j] = None if verdict.status == "error" else verdict.status == "correct"
        groups[i].answers[j] = verdict.answer
    return no_answer_rows("replay", path.stem, statuses)


def judged(group: Group) -> Group:
    """A group without the samples that nobody judged: they are neither right nor wrong, and count in no number."""
    kept = [i for i, c in enumerate(group.correct) if c is not None]
    lists = {name: getattr(group, name) for name in ("responses", "correct", "answers", "scores")}
    return Group(group.id, group.prompt, **{name: [v[i] for i in kept] if v else v for name, v in lists.items()})  # fmt: skip


def replay_rows(groups: Sequence[Group], name: str, ks: Sequence[int] = ()) -> list[MetricRow]:
    """pass@k and pass^k; majority where answers are known, best of n where scores are; the coverage curve's fit.

    Problems with fewer than k judged samples have no part in that k; `unjudged`, the share of samples that our side
    failed to judge, is a row where there are some.
    """
    n = max(g.n for g in groups)
    if ks and max(ks) > n:
        raise UserError(f"k is {max(ks)} but {name} has {n} samples per problem; expected at most {n}")
    if not all(g.correct for g in groups):
        raise UserError(
            f"{name} has responses without verdicts; expected a key like correct or reward, or give a CONFIG with the problems"
        )
    ks = list(ks) or sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})
    lost = [float(np.mean([c is None for c in g.correct])) for g in groups]
    groups = [judged(g) for g in groups]
    if not any(g.correct for g in groups):
        raise UserError(
            f"no sample of {name} could be judged; expected some, see `reasoner verify` for the reason"
        )
    rows: list[MetricRow] = []

    def add(metric: str, method: str, k: int, value_fn: Callable[[Group], float]) -> None:
        values = [value_fn(g) for g in groups if len(g.correct) >= k]
        if values:
            rows.append(mean_row("replay", metric, method, name, "all", values))

    for k in ks:
        add(f"pass@{k}", "sampled", k, lambda g, k=k: pass_at_k(len(g.correct), sum(_right(g)), k))
    coverage = [row.value for row in rows]
    for k in ks[1:]:
        add(f"pass^{k}", "sampled", k, lambda g, k=k: pass_hat_k(len(g.correct), sum(_right(g)), k))
    if all(g.answers for g in groups if g.correct):
        plain = Problem("", "", "math", {})
        classes = {id(g): answer_classes(plain, g.answers) for g in groups}
        for k in ks[1:]:
            add(f"maj@{k}", "sampled", k, lambda g, k=k: maj_at_k(classes[id(g)], _right(g), k))
    for k in ks[1:]:
        for method, rank in _rankings(groups).items():
            add(f"best_of_{k}", method, k, partial(_best_of, rank=rank, k=k))
    if any(lost):
        rows.append(mean_row("replay", "unjudged", "sampled", name, "all", lost))
    if len(coverage) == len(ks) and sum(0 < c < 1 for c in coverage) >= 3:
        fit = fit_coverage(ks, coverage)
        for name_of, value in (("coverage_a", fit.a), ("coverage_b", fit.b)):
            rows.append(
                MetricRow("replay", name_of, "sampled", name, "all", value, np.nan, np.nan, len(groups))
            )
    return rows


def _right(group: Group) -> list[bool]:
    return [bool(c) for c in group.correct]


def _best_of(group: Group, rank: Callable[[Sequence[float]], float], k: int) -> float:
    return best_of_k([rank(s) for s in group.scores], _right(group), k)


def _rankings(groups: Sequence[Group]) -> dict[str, Callable[[Sequence[float]], float]]:
    """How recorded scores rank samples: as they are, or by each of the usual ways to join the scores of steps."""
    if not all(g.scores for g in groups if g.correct):
        return {}
    if all(len(s) == 1 for g in groups for s in g.scores):
        return {"recorded score": AGGREGATES["last"]}
    return {f"recorded score, {name}": AGGREGATES[name] for name in BESIDE}
