"""Measure a policy on problems: greedy and sampled answers, votes, best-of-n, and the quality of reward models.

Only independent samples from the prompt count for pass@k and votes; PRM quality is measured on the policy's
own chains against the exact truth of each written step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from reasoner.data.prompting import Prompting
from reasoner.data.working import written_steps
from reasoner.evals.no_answers import no_answer_rows
from reasoner.metrics.at_k import best_of_n, maj_at_k, pass_at_k
from reasoner.metrics.reward_quality import auroc, best_threshold, first_below, first_error_f1
from reasoner.policy.heads import ScoreNet
from reasoner.policy.packing import num_tokens
from reasoner.registry import lookup
from reasoner.report.rows import MetricRow, mean_row, statistic_row
from reasoner.scoring.aggregate import AGGREGATES, BESIDE, MONTE_CARLO
from reasoner.scoring.prm import score_leaves, score_steps
from reasoner.scoring.published import PublishedPRM
from reasoner.tree import Problem, Tree, outcome_reward
from verifiers.arithmetic_steps import WrittenStep

NUM_SHOWN = 6  # chains of each policy in the report


@dataclass(frozen=True)
class Answered:
    """A policy at some point of its training with its judged trees: a greedy answer, and sampled ones where it has any.

    Sampled ones have scores as `scored` gives them.
    """

    when: str
    greedy: list[Tree]
    sampled: list[Tree] = field(default_factory=list)


@dataclass
class Measured:
    """Rows for metrics.json, some chains for the report, and (step score, step is right) pairs of the PRM."""

    rows: list[MetricRow] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    step_scores: list[tuple[float, bool]] = field(default_factory=list)


@dataclass(frozen=True)
class RewardModels:
    """The nets that rank answers; `aggregate` turns a PRM's step scores into one."""

    prm: ScoreNet | PublishedPRM | None = None
    orm: ScoreNet | None = None
    aggregate: str = MONTE_CARLO
    threshold: float = 0.5


class Checked(NamedTuple):
    """A written step with its truth, the PRM's score of it, and whether it is the last of its chain."""

    written: WrittenStep
    score: float
    is_end: bool


def scored(trees: Sequence[Tree], models: RewardModels) -> dict[str, int]:
    """Set what the reward models say: of the PRM at each step end, of the ORM at each leaf; by model, tokens that it read."""
    read: dict[str, int] = {}
    if models.orm is not None:
        read["orm"] = sum(map(num_tokens, trees))
        for tree, of_tree in zip(trees, score_leaves(models.orm, trees), strict=True):
            tree.scores["orm"] = {leaf: [score] for leaf, score in of_tree.items()}
    if models.prm is not None:
        read["prm"] = score_steps(models.prm, trees, "prm")
    return read


def measure(answered: Answered, prompting: Prompting, models: RewardModels, stage: str) -> Measured:
    """All rows of one policy. Subsets are the problems' domains, where there are several, and `all`."""
    found = Measured()
    greedy, trees, when = answered.greedy, answered.sampled, answered.when
    problems = [t.problem for t in greedy]
    right = [_outcomes(t)[0] for t in greedy]
    statuses = [(t.problem, v.status) for t in greedy for v in t.verdicts.values()]
    found.rows += no_answer_rows(stage, when, statuses)
    _add(found, stage, "pass@1", "greedy", when, problems, right)
    if not trees:
        found.samples = [sample(t, prompting, when) for t in varied(greedy, NUM_SHOWN)]
        return found
    k = len(trees[0].leaves())
    outcomes = [_outcomes(t) for t in trees]
    answers = [[t.verdicts[leaf].answer for leaf in t.leaves()] for t in trees]
    _add(found, stage, "pass@1", "sampled", when, problems, [float(np.mean(o)) for o in outcomes])
    _add(
        found,
        stage,
        f"pass@{k}",
        "sampled",
        when,
        problems,
        [judged(o, lambda o=o: pass_at_k(k, int(sum(o)), k)) for o in outcomes],
    )
    _add(found, stage, f"maj@{k}", "sampled", when, problems,
         [judged(o, lambda a=a, o=o: maj_at_k(a, [bool(x) for x in o], k))
          for a, o in zip(answers, outcomes, strict=True)])  # fmt: skip
    if models.orm is not None:
        best = [
            judged(o, lambda t=t, o=o: best_of_n([t.scores["orm"][leaf][0] for leaf in t.leaves()], o))
            for t, o in zip(trees, outcomes, strict=True)
        ]
        _add(found, stage, f"best_of_{k}", "orm", when, problems, best)
    if models.prm is not None:
        for method, name in {"prm": models.aggregate, **{f"prm, {name}": name for name in BESIDE}}.items():
            best = [
                judged(o, lambda t=t, o=o, name=name: best_of_n(_ranks(t, name), o))
                for t, o in zip(trees, outcomes, strict=True)
            ]
            _add(found, stage, f"best_of_{k}", method, when, problems, best)
        _add_step_quality(found, stage, when, trees, prompting, models.threshold)
    found.samples = [sample(t, prompting, when) for t in varied(trees, NUM_SHOWN)]
    return found


def _ranks(tree: Tree, aggregate: str) -> list[float]:
    """A score for each answer; one without a step ranks below all others."""
    steps = [tree.path_scores("prm", leaf) for leaf in tree.leaves()]
    rank = lookup(AGGREGATES, aggregate, "aggregate")
    return [rank(s) if s else -math.inf for s in steps]


def calibrated_threshold(trees: Sequence[Tree], prompting: Prompting) -> float:
    """The step-score threshold with the best first-error F1 on these trees' chains, scored by the PRM already."""
    chains = [checked_chain(t, leaf, prompting) for t in trees for leaf in t.leaves()]
    chains = [c for c in chains if c]
    truth = [_first_wrong(c) for c in chains]
    if all(t == -1 for t in truth) or all(t != -1 for t in truth):
        return 0.5
    return best_threshold([[step.score for step in c] for c in chains], truth).threshold


def checked_chain(tree: Tree, leaf: int, prompting: Prompting) -> list[Checked]:
    """The calculations of a trajectory with their truth and the PRM's score; none where lines and steps don't match."""
    written = written_steps(prompting.decode(tree.completion_ids(leaf)), tree.problem.prompt)
    scores = tree.path_scores("prm", leaf)
    if len(written) != len(scores):
        return []
    ends = [i + 1 == len(written) for i in range(len(written))]
    return [Checked(*step) for step in zip(written, scores, ends, strict=True) if step[0].right is not None]


def _first_wrong(chain: list[Checked]) -> int:
    return next((i for i, step in enumerate(chain) if not step.written.right), -1)


def _outcomes(tree: Tree) -> list[float]:
    """1 for each right answer, 0 for each wrong one, NaN for what our side failed to judge."""
    rewards = [outcome_reward(tree.verdicts[leaf]) for leaf in tree.leaves()]
    return [float("nan") if r is None else r for r in rewards]


def judged(outcomes: Sequence[float], value: Callable[[], float]) -> float:
    """The value of a problem's samples; NaN where one of them was not judged."""
    return float("nan") if np.isnan(outcomes).any() else value()


def _add(
    found: Measured, stage: str, metric: str, method: str, when: str, problems: Sequence[Problem], values
) -> None:
    domains = sorted({p.domain for p in problems}, reverse=True)
    # of one domain `all` says it already
    for domain in [*(domains if len(domains) > 1 else []), None]:
        of_subset = [v for p, v in zip(problems, values, strict=True) if domain in (None, p.domain)]
        subset = "all" if domain is None else domain or "other"
        # A problem with an answer that our side failed to judge has no value; `n` tells how many have one.
        known = [v for v in of_subset if not np.isnan(v)]
        if known:
            found.rows.append(mean_row(stage, metric, method, when, subset, known))


def _add_step_quality(
    found: Measured, stage: str, when: str, trees: Sequence[Tree], prompting: Prompting, threshold: float
) -> None:
    """AUROC over the steps up to each chain's first wrong one, and first-error F1 at the calibrated threshold.

    A chain's last step is its answer, so AUROC is also told apart for the steps inside and for the ends: what is good
    at the ends alone is an outcome model.
    """
    per_problem: list[list[Checked]] = []
    predicted: list[int] = []
    truth: list[int] = []
    for tree in trees:
        steps: list[Checked] = []
        for leaf in tree.leaves():
            chain = checked_chain(tree, leaf, prompting)
            if not chain:
                continue
            wrong = _first_wrong(chain)
            steps += chain if wrong < 0 else chain[: wrong + 1]
            predicted.append(first_below([step.score for step in chain], threshold))
            truth.append(wrong)
        per_problem.append(steps)
    for subset, kept in (("steps", None), ("steps inside", False), ("steps at the end", True)):
        pairs = [
            [(s.score, bool(s.written.right)) for s in steps if kept is None or s.is_end == kept]
            for steps in per_problem
        ]
        if kept is None:
            found.step_scores = [p for of_problem in pairs for p in of_problem]
        if len({right for of_problem in pairs for _, right in of_problem}) == 2:
            found.rows.append(_auroc_row(stage, when, subset, pairs))
    if len({right for _, right in found.step_scores}) == 2:
        both = np.array([predicted, truth]).T
        found.rows.append(
            statistic_row(
                stage,
                "first_error_f1",
                "prm",
                when,
                "steps",
                both,
                lambda r: first_error_f1(r[:, 0], r[:, 1]).f1,
            )
        )


def _auroc_row(stage: str, when: str, subset: str, per_problem: list[list[tuple[float, bool]]]) -> MetricRow:
    """AUROC of (score, right) pairs, with an interval over problems."""
    pairs = [np.array(of_problem, dtype=float).reshape(-1, 2) for of_problem in per_problem]

    def of_problems(numbers: np.ndarray) -> float:
        chosen = np.concatenate([pairs[int(i)] for i in numbers])
        return auroc(chosen[:, 0], chosen[:, 1]) if len(chosen) else math.nan

    return statistic_row(stage, "auroc", "prm", when, subset, np.arange(len(pairs)), of_problems)


def varied(trees: Sequence[Tree], num: int) -> list[Tree]:
    """`num` trees for people to read, as unlike as there are: by domain, family, and what came of the first answer."""
    seen: Counter[tuple[str, ...]] = Counter()
    rest, chosen = [t for t in trees if t.leaves()], []
    while rest and len(chosen) < num:
        # new as a whole, then in its parts; of equally new ones the first
        kinds = [_kinds(t) for t in rest]
        best = min(range(len(rest)), key=lambda i: (seen[sum(kinds[i], ())], sum(seen[x] for x in kinds[i])))
        seen.update([*kinds[best], sum(kinds[best], ())])
        chosen.append(rest.pop(best))
    return chosen


def _kinds(tree: Tree) -> list[tuple[str, ...]]:
    problem, verdict = tree.problem, tree.verdicts.get(tree.leaves()[0])
    family = problem.id.rpartition("/")[0] or problem.source
    return [("domain", problem.domain), ("family", family), ("status", verdict.status if verdict else "")]


def sample(tree: Tree, prompting: Prompting, when: str) -> dict[str, Any]:
    """The first answer for the report: its written calculations with their truth, or its lines where it has none."""
    leaf = tree.leaves()[0]
    text = prompting.decode(tree.completion_ids(leaf))
    written = written_steps(text, tree.problem.prompt)
    steps: list[tuple[str, bool | None]] = [(w.text, w.right) for w in written]
    steps = steps or [(line, None) for line in text.splitlines() if line.strip()]
    scores = tree.path_scores("prm", leaf) if "prm" in tree.scores else []
    matched = scores if len(scores) == len(steps) else [None] * len(steps)
    status = tree.verdicts[leaf].status
    return {
        "prompt": f"{tree.problem.prompt}   ({when})",
        "steps": [{"text": t, "right": r, "prm": s} for (t, r), s in zip(steps, matched, strict=True)],
        "correct": None if status == "error" else status == "correct",
    }
