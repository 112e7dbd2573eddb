"""Accuracy against cost: every method on every benchmark, charged all that it used, with paired comparisons.

Methods that choose among independent samples share one set of draws (the draws of a place are the same whoever
asks); their value at k of n samples is the exact mean over subsets where there is a formula (majority, best of
n), else the mean over the n / k disjoint blocks. Each is charged as if it had drawn its k samples alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from reasoner.economics.cost import Prices, price
from reasoner.evals.tools import Solver, num_passed, tools_of
from reasoner.metrics.at_k import best_of_k, maj_at_k
from reasoner.metrics.intervals import PairedDifference, paired_difference
from reasoner.registry import UserError
from reasoner.report.rows import MetricRow, gain_row, mean_row
from reasoner.scoring.outcome import judge
from reasoner.search.method import Choice, Sampled, Tools, classes_of, extend, from_root
from reasoner.search.methods import answer, label_of
from reasoner.search.samples import OfSamples, check, choose_of, score_samples, scorer_of
from reasoner.tree import ROOT, Problem, Tree, outcome_reward
from verifiers import Verdict, verify

COUNTS = ("prefilled", "reused", "decoded", "scored", "verifications")
CAUSES: tuple[str, ...] = ("correct", "wrong", "no_answer", "unfinished", "our_error")


@dataclass(frozen=True)
class Spent:
    """Per problem: tokens by kind (`scored` are a reward model's), verifications, seconds and dollars."""

    prefilled: float
    reused: float
    decoded: float
    scored: float
    verifications: float
    seconds: float
    dollars: float

    @property
    def tokens(self) -> float:
        """Tokens that some model computed; reused prefixes are not among them."""
        return self.prefilled + self.decoded + self.scored


@dataclass(frozen=True)
class Point:
    """One method at one budget on one benchmark; `outcomes[p]` is its expected correctness on problem p.

    It is NaN where our side failed to judge an answer that it rests on: such a problem is in no mean.

    `drawn` is `independent`, or `tree` where the answer is chosen among leaves that share prefixes.
    """

    benchmark: str
    model: str
    method: str
    num_samples: int
    temperature: float
    drawn: str
    spent: Spent
    causes: dict[str, float]
    outcomes: list[float] = field(repr=False)

    @property
    def name(self) -> str:
        return self.method if self.num_samples == 1 else f"{self.method} @{self.num_samples}"

    @property
    def accuracy(self) -> float:
        known = self.known
        return float(np.mean(known)) if known else math.nan

    @property
    def known(self) -> list[float]:
        """The outcomes on the problems that were judged."""
        return [x for x in self.outcomes if not math.isnan(x)]


@dataclass(frozen=True)
class Bench:
    """Problems under one name, and how they are answered."""

    name: str
    problems: Sequence[Problem]
    max_tokens: int
    seed: int
    prices: Prices


def each_alone(
    methods: Sequence[Sampled], budgets: Sequence[int]
) -> list[tuple[list[Sampled], Sequence[int]]]:
    """What `points_of` measures, in shares of methods and budgets that have nothing in common, in its order."""
    sampled = [m for m in methods if isinstance(m, OfSamples)]
    alone = [at for m in methods if not isinstance(m, OfSamples) for at in _at_budgets(m, budgets)]
    pools = [[m for m in sampled if m.sampling == key] for key in dict.fromkeys(m.sampling for m in sampled)]
    return [*((list[Sampled](pool), budgets) for pool in pools), *(([method], ()) for method in alone)]


def points_of(
    bench: Bench,
    solver: Solver,
    methods: Sequence[Sampled],
    budgets: Sequence[int],
    progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> list[Point]:
    """All points of a model on a benchmark. `budgets` are the sample counts of every method that has one.

    `progress` hears of problems, those of every method counted, and what is being done.
    """
    if not bench.problems:
        raise UserError(f"benchmark {bench.name} has no problems; expected at least one")
    sampled = [m for m in methods if isinstance(m, OfSamples)]
    alone = [at for m in methods if not isinstance(m, OfSamples) for at in _at_budgets(m, budgets)]
    size, total, number = len(bench.problems), len(sampled) + len(alone), 0
    points: list[Point] = []

    def within(at: int, note: str) -> Callable[[int, int], None]:
        """Tells of the method number `at` how much of it is done."""
        progress(at * size, total * size, note)
        return lambda done, of: progress(at * size + size * done // max(1, of), total * size, note)

    for key in dict.fromkeys(m.sampling for m in sampled):
        group = [m for m in sampled if m.sampling == key]
        most = max(budgets or [m.num_samples for m in group])
        pool = _Pool(bench, solver, key, most, within(number, f"{most} samples each"))
        for method in group:
            within(number + (method is group[0]), label_of(method))  # the samples are the first one's work
            number += 1
            for k in budgets or [method.num_samples]:
                points.append(pool.point(method, k))
    for i, method in enumerate(alone):
        points.append(_run_alone(bench, solver, method, within(len(sampled) + i, label_of(method))))
    return points


def _at_budgets(method: Sampled, budgets: Sequence[int]) -> list[Sampled]:
    """The method at each budget; those below its smallest sensible one are left out, all of them if it has none."""
    if not budgets or "num_samples" not in type(method).model_fields:
        return [method]
    least = max((getattr(method, key, 1) for key in ("first", "branching", "num_rollouts")), default=1)
    if hasattr(method, "search"):
        least = max(least, method.search.num_children)  # type: ignore[attr-defined]
    return [method.model_copy(update={"num_samples": k}) for k in budgets if k >= max(least, 2)]


def _prompts(bench: Bench, solver: Solver) -> list[Tree]:
    return [Tree.of_prompt(p, solver.prompting.prompt_ids(p.prompt)) for p in bench.problems]


def _run_alone(
    bench: Bench,
    solver: Solver,
    method: Sampled,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Point:
    """The method by itself, on an engine that has seen nothing yet."""
    solver.engine.load_weights(solver.engine.weights_version)
    trees = _prompts(bench, solver)
    tools = tools_of(solver, bench.max_tokens, bench.seed, on_progress)
    with solver.ledger.stage("method"):
        choices = answer(trees, tools, method)
    counts = _take_counts(solver)
    verdicts = [_judged(t, c, tools) for t, c in zip(trees, choices, strict=True)]
    causes = Counter(_cause(t, c.leaf, v) for t, c, v in zip(trees, choices, verdicts, strict=True))
    return Point(
        bench.name, solver.name, label_of(method), getattr(method, "num_samples", 1), method.temperature,
        choices[0].drawn, _spent(counts, len(trees), bench, solver),
        {c: float(causes[c]) for c in CAUSES}, [_outcome(v) for v in verdicts],
    )  # fmt: skip


def _take_counts(solver: Solver) -> dict[str, float]:
    """What the stage called "method" booked, taken out of the ledger."""
    models = solver.ledger.counts.pop("method", {})
    counts = {c: float(sum(m.get(c, 0) for m in models.values())) for c in COUNTS}
    return {**counts, "seconds": solver.ledger.seconds.pop("method", 0.0)}


def _spent(counts: dict[str, float], num_problems: int, bench: Bench, solver: Solver) -> Spent:
    per = {key: value / num_problems for key, value in counts.items()}
    scorer = solver.prm or solver.orm
    scorer_params = num_passed(scorer.lm) if scorer is not None else solver.num_params
    dollars = price({c: 1e6 * per[c] for c in COUNTS}, solver.num_params, scorer_params, bench.prices) / 1e6
    return Spent(**per, dollars=dollars)


def _judged(tree: Tree, choice: Choice, tools: Tools) -> Verdict:
    """The verdict on the chosen answer; an error of ours is tried once more."""
    if choice.leaf is None:
        return Verdict("no_answer", "unparseable", detail="the method finished no answer")
    text = tools.decode(tree.completion_ids(choice.leaf))
    verdict = tree.verdicts.get(choice.leaf) or verify(tree.problem.verifier, text, tree.problem.reference)
    if verdict.status == "error":
        verdict = verify(tree.problem.verifier, text, tree.problem.reference)
    return verdict


def _outcome(verdict: Verdict) -> float:
    reward = outcome_reward(verdict)
    return math.nan if reward is None else reward


def _cause(tree: Tree, leaf: int | None, verdict: Verdict) -> str:
    if verdict.status == "correct":
        return "correct"
    if verdict.status == "error":
        return "our_error"
    if leaf is not None and tree.nodes[leaf].stop_reason in ("length", "context", "open"):
        return "unfinished"
    return "no_answer" if verdict.status == "no_answer" else "wrong"


class _Pool:
    """n judged independent answers per problem under one sampling; every method over samples is read off them."""

    def __init__(
        self, bench: Bench, solver: Solver, sampling, num: int, on_progress: Callable[[int, int], None]
    ):
        self.bench, self.solver, self.num = bench, solver, num
        self.tools = tools_of(solver, bench.max_tokens, bench.seed)
        self.trees = _prompts(bench, solver)
        solver.engine.load_weights(solver.engine.weights_version)
        with solver.ledger.stage("method"):
            self.leaves = extend(
                self.trees, [from_root(t, num) for t in self.trees], self.tools, sampling,
                on_progress=lambda done: on_progress(done, len(self.trees)),
            )  # fmt: skip
        self.seconds = _take_counts(solver)["seconds"]
        judge(self.trees, self.tools.decode)
        self.is_judged = [all(v.status != "error" for v in t.verdicts.values()) for t in self.trees]
        self.right = [
            [t.verdicts[leaf].status == "correct" for leaf in leaves]
            for t, leaves in zip(self.trees, self.leaves, strict=True)
        ]
        self.classes = [
            classes_of(t, leaves, self.tools)[1] for t, leaves in zip(self.trees, self.leaves, strict=True)
        ]
        self.scores: dict[tuple, tuple[list[list[float]], dict[str, float]]] = {}

    def point(self, method: OfSamples, k: int) -> Point:
        if k > self.num:
            raise UserError(
                f"{label_of(method)} asks for {k} of {self.num} samples; expected at most as many"
            )
        check(method, self.tools)
        scores, counts = self._scored(method)
        outcomes = [self._outcome(method, k, p, scores[p]) for p in range(len(self.trees))]
        return Point(
            self.bench.name, self.solver.name, label_of(method), k, method.temperature, "independent",
            _spent(self._charge(counts, k), len(self.trees), self.bench, self.solver),
            self._causes(outcomes), outcomes,
        )  # fmt: skip

    def _scored(self, method: OfSamples) -> tuple[list[list[float]], dict[str, float]]:
        """The scores of all samples and what scoring all of them took."""
        key = (scorer_of(method), method.aggregate, method.measure, method.window)
        if key not in self.scores:
            with self.solver.ledger.stage("method"):
                for tree in self.trees:
                    tree.scores.pop("prm", None)
                tools = tools_of(self.solver, self.bench.max_tokens, self.bench.seed)
                by_leaf = score_samples(self.trees, tools, method)
            counts = _take_counts(self.solver)
            if scorer_of(method) == "verifier":  # judged already, and charged all the same
                counts["verifications"] = float(self.num * len(self.trees))
            ordered = [[s[leaf] for leaf in leaves] for s, leaves in zip(by_leaf, self.leaves, strict=True)]
            self.scores[key] = ordered, counts
        return self.scores[key]

    def _outcome(self, method: OfSamples, k: int, p: int, scores: list[float]) -> float:
        """Expected correctness on problem p when k of the samples are drawn; NaN where one of all was not judged."""
        if not self.is_judged[p]:
            return math.nan
        if method.name == "majority" and self.num <= 1000:
            return maj_at_k(self.classes[p], self.right[p], k)
        if method.name == "best_of":
            silent = [-np.inf if c is None else s for s, c in zip(scores, self.classes[p], strict=True)]
            return best_of_k(silent, [float(r) for r in self.right[p]], k)
        blocks = range(0, self.num - k + 1, k)
        leaves, values = self.leaves[p], []
        for b in blocks:
            chosen = choose_of(self.trees[p], leaves[b : b + k], scores[b : b + k], self.tools, method).leaf
            values.append(float(chosen is not None and self.right[p][leaves.index(chosen)]))
        return float(np.mean(values))

    def _charge(self, scoring: dict[str, float], k: int) -> dict[str, float]:
        """The counts of k samples per problem, out of those of all: prompts are prefilled once, chains are their mean."""
        share = k / self.num
        prompts = sum(len(t.nodes[ROOT].token_ids) - 1 for t in self.trees)
        all_prompts = float(sum(len(t.nodes[ROOT].token_ids) for t in self.trees))
        scored = scoring["scored"]
        return {
            "prefilled": float(prompts),
            "reused": float(prompts * (k - 1)),
            "decoded": share * sum(t.num_sampled for t in self.trees),
            "scored": all_prompts + share * (scored - all_prompts) if scored else 0.0,
            "verifications": share * scoring["verifications"],
            "seconds": share * (self.seconds + scoring["seconds"]),
        }

    def _causes(self, outcomes: list[float]) -> dict[str, float]:
        """Expected counts: what the method gets right, and the rest by the causes of the wrong samples."""
        found = dict.fromkeys(CAUSES, 0.0)
        for p, outcome in enumerate(outcomes):
            if math.isnan(outcome):
                found["our_error"] += 1
                continue
            tree, leaves = self.trees[p], self.leaves[p]
            wrong = Counter(_cause(tree, leaf, tree.verdicts[leaf]) for leaf in leaves)
            wrong.pop("correct", None)
            found["correct"] += outcome
            for cause, n in wrong.items():
                found[cause] += (1 - outcome) * n / sum(wrong.values())
        return found


def frontier(points: Sequence[Point]) -> list[Point]:
    """Points that no other one beats with as few computed tokens, cheapest first."""
    best: list[Point] = []
    for point in sorted((p for p in points if p.known), key=lambda p: (p.spent.tokens, -p.accuracy)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best


def against(
    points: Sequence[Point], baseline: str = "majority"
) -> list[tuple[Point, Point, PairedDifference]]:
    """Each other method with the baseline at equal tokens: its cheapest point that spends at least as many.

    Where the baseline was not measured with so many, its dearest point stands in.
    """
    base = sorted((p for p in points if p.method == baseline), key=lambda p: p.spent.tokens)
    found = []
    for point in points:
        if point.method == baseline or not base or (point.num_samples == 1 and point.method != "greedy"):
            continue  # one sample leaves nothing to choose
        other = next((b for b in base if b.spent.tokens >= point.spent.tokens), base[-1])
        if not np.isnan(np.subtract(point.outcomes, other.outcomes)).all():
            found.append((point, other, paired_difference(point.outcomes, other.outcomes)))
    return found


def rows_of(points: Sequence[Point], stage: str) -> list[MetricRow]:
    """Rows for metrics.json: accuracy and each cost by method, and the paired gains over majority at equal tokens."""
    rows = []
    for p in points:
        method = p.name + (" (tree)" if p.drawn == "tree" else "")
        if p.known:
            rows.append(mean_row(stage, "accuracy", method, p.model, p.benchmark, p.known))
        costs = {"tokens": p.spent.tokens, **asdict(p.spent)}
        for name, value in costs.items():
            nothing = float("nan")
            rows.append(
                MetricRow(stage, name, method, p.model, p.benchmark, value, nothing, nothing, len(p.outcomes))
            )
    groups = dict.fromkeys((p.benchmark, p.model) for p in points)
    for benchmark, model in groups:
        own = [p for p in points if (p.benchmark, p.model) == (benchmark, model)]
        for point, base, paired in against(own):
            rows.append(gain_row(stage, "accuracy", model, point.name, base.name, benchmark, paired))
    return rows


def from_plain(point: dict) -> Point:
    """A point of `to_plain`."""
    fields = {k: v for k, v in point.items() if k not in ("tokens", "accuracy")}
    outcomes = [math.nan if x is None else x for x in point["outcomes"]]  # as JSON has it
    return Point(**{**fields, "outcomes": outcomes, "spent": Spent(**point["spent"])})


def to_plain(points: Sequence[Point]) -> list[dict]:
    """For points.json: everything, the outcome on each problem included, for comparisons of one's own."""
    return [{**asdict(p), "tokens": p.spent.tokens, "accuracy": p.accuracy} for p in points]
