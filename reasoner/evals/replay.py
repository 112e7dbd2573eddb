"""Evaluate samples that were made elsewhere: one row per problem with lists, or one row per sample.

What others call these fields is recognised; whatever holds a verdict is taken as recorded, and where none does the
responses are verified against the problems of a config, found by id or by prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reasoner.data.rows import file_rows
from reasoner.evals.metrics import best_of_k, fit_coverage, maj_at_k, pass_at_k, pass_hat_k
from reasoner.evals.rows import MetricRow, mean_row
from reasoner.registry import UserError
from reasoner.search.answers import answer_classes
from reasoner.tree import Problem
from verifiers import verify_many

ID_KEYS = ("problem_id", "question_id", "task_id", "idx", "id", "unique_id", "problem", "question", "prompt")
RESPONSE_KEYS = (
    "responses",
    "response",
    "samples",
    "completions",
    "completion",
    "generateds",
    "generation",
    "ys",
)
CORRECT_KEYS = (
    "correct", "is_correct", "is_corrects", "per_sample_correct", "rewards", "reward", "accs", "infos", "status", "score",
)  # fmt: skip
ANSWER_KEYS = ("answers", "pred", "pred_answers", "predicted_answer", "extracted_answer")
SCORE_KEYS = ("scores", "pred_score", "prm_score", "orm_score")
PROMPT_KEYS = ("prompt", "problem", "question")


@dataclass
class Group:
    """The samples of one problem; lists of one length each, or empty where the file tells nothing."""

    id: str
    prompt: str = ""
    responses: list[str] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)
    answers: list[str | None] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    @property
    def n(self) -> int:
        return max(len(self.responses), len(self.correct), len(self.answers))


def read_groups(path: Path) -> list[Group]:
    """The samples of a file, or of all files of a folder, by problem. UserError for what cannot be used."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise UserError(f"no samples at {path}; expected a JSON-lines or Parquet file, or a folder of them")
    groups: dict[str, Group] = {}
    for file in files:
        for number, row in enumerate(file_rows(file)):
            _add(groups, row, f"row {number} of {file}")
    if not groups:
        raise UserError(f"{path} holds no rows; expected at least one problem with samples")
    _check(list(groups.values()), path)
    return list(groups.values())


def _add(groups: dict[str, Group], row: dict, where: str) -> None:
    key = next((k for k in ID_KEYS if row.get(k) is not None), None)
    if key is None:
        raise UserError(
            f"{where} names no problem; expected one of {', '.join(ID_KEYS)}, it has {sorted(row)}"
        )
    group = groups.setdefault(str(row[key]), Group(str(row[key])))
    group.prompt = group.prompt or next((str(row[k]) for k in PROMPT_KEYS if isinstance(row.get(k), str)), "")
    responses = _listed(row, RESPONSE_KEYS)
    correct = _listed(row, CORRECT_KEYS)
    if not responses and not correct:
        raise UserError(
            f"{where} holds no samples; expected one of {', '.join(RESPONSE_KEYS)} or {', '.join(CORRECT_KEYS)}"
        )
    group.responses += [str(r) for r in responses]
    group.correct += [_is_correct(c) for c in correct]
    group.answers += [None if a in (None, "") else str(a) for a in _listed(row, ANSWER_KEYS)]
    group.scores += [float(np.ravel(s)[0]) for s in _listed(row, SCORE_KEYS)]


def _listed(row: dict, keys: tuple[str, ...]) -> list[Any]:
    """The value under the first key that is there, as a list (one sample a row is a list of one)."""
    value = next((row[k] for k in keys if row.get(k) is not None), None)
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _is_correct(value: Any) -> bool:
    """True, a reward over 0, a pass mark P, or such a value under `r`."""
    if isinstance(value, dict):
        value = value.get("r", 0)
    return value in ("P", "pass", "passed", "correct") if isinstance(value, str) else float(value) > 0


def _check(groups: Sequence[Group], path: Path) -> None:
    sizes = [g.n for g in groups]
    most = max(set(sizes), key=lambda n: (sizes.count(n), n))
    for group in groups:
        if group.n != most:
            raise UserError(
                f"problem {group.id[:60]!r} of {path} has {group.n} samples where others have {most}; "
                "expected as many for each: complete the file, or take these problems out"
            )
        for name in ("responses", "correct", "answers", "scores"):
            if len(getattr(group, name)) not in (0, most):
                raise UserError(
                    f"problem {group.id[:60]!r} of {path} has {len(getattr(group, name))} {name} for {most} samples; "
                    "expected one for each"
                )


def verify_groups(groups: Sequence[Group], problems: Sequence[Problem], path: Path) -> None:
    """Set `correct` and `answers` by the problems' own verifiers; an error of ours counts as not correct."""
    known = {p.id: p for p in problems} | {p.prompt: p for p in problems}
    found = {i: known.get(g.id) or known.get(g.prompt) for i, g in enumerate(groups)}
    lost = [groups[i].id for i, p in found.items() if p is None]
    if lost:
        raise UserError(
            f"{len(lost)} problems of {path} are not in the config's problem sets, first {lost[0][:60]!r}; "
            "expected the same ids or prompts"
        )
    for group in groups:
        group.correct, group.answers = [False] * group.n, [None] * group.n
    requests = (
        ((i, j), p.verifier, response, p.reference)
        for i, p in found.items()
        if p is not None
        for j, response in enumerate(groups[i].responses)
    )
    for at, verdict in verify_many(requests):
        i, j = at  # type: ignore[misc]
        groups[i].correct[j] = verdict.status == "correct"
        groups[i].answers[j] = verdict.answer


def replay_rows(groups: Sequence[Group], name: str, ks: Sequence[int] = ()) -> list[MetricRow]:
    """pass@k and pass^k; majority where answers are known, best of n where scores are; the coverage curve's fit."""
    n = groups[0].n
    if ks and max(ks) > n:
        raise UserError(f"k is {max(ks)} but {name} has {n} samples per problem; expected at most {n}")
    if not all(g.correct for g in groups):
        raise UserError(
            f"{name} has responses without verdicts; expected a key like correct or reward, or give a CONFIG with the problems"
        )
    ks = list(ks) or sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})
    rows: list[MetricRow] = []

    def add(metric: str, method: str, values: list[float]) -> None:
        rows.append(mean_row("replay", metric, method, name, "all", values))

    coverage = []
    for k in ks:
        values = [pass_at_k(n, sum(g.correct), k) for g in groups]
        coverage.append(float(np.mean(values)))
        add(f"pass@{k}", "sampled", values)
    for k in ks[1:]:
        add(f"pass^{k}", "sampled", [pass_hat_k(n, sum(g.correct), k) for g in groups])
    if all(g.answers for g in groups):
        judged = Problem("", "", "math", {})
        classes = [answer_classes(judged, g.answers) for g in groups]
        for k in ks[1:]:
            add(
                f"maj@{k}",
                "sampled",
                [maj_at_k(c, g.correct, k) for c, g in zip(classes, groups, strict=True)],
            )
    if all(g.scores for g in groups):
        for k in ks[1:]:
            add(
                f"best_of_{k}",
                "recorded score",
                [best_of_k(g.scores, [float(c) for c in g.correct], k) for g in groups],
            )
    if sum(0 < c < 1 for c in coverage) >= 3:
        fit = fit_coverage(ks, coverage)
        for name_of, value in (("coverage_a", fit.a), ("coverage_b", fit.b)):
            rows.append(
                MetricRow("replay", name_of, "sampled", name, "all", value, np.nan, np.nan, len(groups))
            )
    return rows
