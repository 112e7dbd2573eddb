"""Measure step scores, of a process reward model or given ones, on benchmarks of labelled solutions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from reasoner.config import Config, DataFile, MayChange
from reasoner.data.files import LeftOut, data_files, read_rows
from reasoner.data.importers import Import
from reasoner.data.importers.step_tree import StepTree, Unusable, probability, whole
from reasoner.data.importers.tokens import Encoded, encode
from reasoner.data.prompting import Prompting
from reasoner.data.splits import HeldOut
from reasoner.engine.connect import EngineConfig
from reasoner.evals.step_benchmarks import (
    Scored,
    average_row,
    calibration,
    measure_steps,
    solutions,
    threshold_of,
)
from reasoner.folder import StageName
from reasoner.policy.heads import ScoreNet
from reasoner.registry import UserError
from reasoner.report.rows import MetricRow, to_json
from reasoner.scoring.aggregate import ABOUT_ONE_STEP, default_aggregate
from reasoner.scoring.critique import CritiqueScores, longest_reading, step_scorer
from reasoner.scoring.prm import score_steps
from reasoner.scoring.published import PublishedPRM, score_solutions, tokens_of
from reasoner.scoring.reward_models import load_reward_model
from reasoner.search.method import AggregateName
from reasoner.stages.context import Context
from reasoner.stages.critiques import critic_engine
from reasoner.stages.references import ModelName, RewardModelName
from reasoner.store import write_json, write_text
from reasoner.tree import ROOT, Node, Problem, Tree

OWN_LABELS = "labels"


class Benchmark(Config):
    """Labelled solutions, and where their scores come from."""

    path: Annotated[str, DataFile(labels=True)] = Field(
        description="file or folder of any format that `reasoner import` knows"
    )
    scores: Annotated[str, DataFile(unless=OWN_LABELS)] | None = Field(
        None, description="file of {scores: one per step} or {prediction: index} by `id` or in the same order, or "
        "`labels`: the file's own labels are the scores; by default the PRM scores"
    )  # fmt: skip


class StepBenchmarks(Config):
    """First-error F1 (ProcessBench), PRM score (PRMBench), AUROC and calibration of steps, exact best-of-k."""

    kind: Literal["step_benchmarks"]
    name: StageName = "evaluate"
    benchmarks: dict[str, Benchmark] = Field(
        min_length=1, description="benchmarks by the name of their subset"
    )
    prm: RewardModelName | None = Field(None, description="stage or folder of the process reward model")
    critic: ModelName | None = Field(
        None, description="stage, folder or hub name of a critique model that scores steps in place of `prm`"
    )
    critique: CritiqueScores = CritiqueScores.model_validate({})
    engine: Annotated[EngineConfig, MayChange()] = EngineConfig()
    threshold: float = Field(0.5, description="a step with a lower score is called wrong")
    calibrate_on: Benchmark | None = Field(
        None, description="other labelled solutions that set the threshold instead"
    )
    aggregate: AggregateName | None = Field(
        None,
        description="from step scores to one score; by default what fits the labels that the PRM learned",
    )
    trained_on: list[Annotated[str, DataFile(labels=True)]] = Field(
        [],
        description="files of labels that the PRM was trained on: their problems are left out of all benchmarks",
    )

    @model_validator(mode="after")
    def _has_one_scorer(self) -> Self:
        if self.prm and self.critic:
            raise ValueError(
                f"got prm={self.prm} and critic={self.critic}; expected one of them: a stage for each"
            )
        return self


def run_step_benchmarks(config: StepBenchmarks, context: Context) -> None:
    aggregate = config.aggregate or default_aggregate(context.model(config.prm) if config.prm else None)
    if config.critic and config.critique.reads == "likelihood":
        aggregate = config.aggregate or ABOUT_ONE_STEP
    reader = _Reader(config, context)
    threshold = config.threshold
    if config.calibrate_on is not None:
        scored, _ = reader.read(config.calibrate_on, list(Import(config.calibrate_on.path)))
        threshold = threshold_of(scored).threshold
    trees = {name: list(Import(b.path)) for name, b in config.benchmarks.items()}
    excluded = _trained_on(config.trained_on, trees, context)
    method = "prm" if config.prm else "critic" if config.critic else "given"
    when = config.prm or config.critic or "given"
    rows: list[MetricRow] = []
    counts: dict[str, Any] = {"threshold": threshold}
    for step, (name, benchmark) in enumerate(config.benchmarks.items()):
        scored, left_out = reader.read(benchmark, trees[name])
        kept = [s for s in scored if s.problem_id not in excluded]
        counts[name] = {
            "solutions": len(kept), "excluded": len(scored) - len(kept), "not_scored": [row._asdict() for row in left_out]
        }  # fmt: skip
        if not kept:
            raise UserError(
                f"all {len(scored)} solutions of {name} are of problems in {', '.join(config.trained_on)}; "
                "expected some that the model was not trained on"
            )
        rows += measure_steps(kept, threshold, aggregate, config.name, method, when, name)
        curve = [point._asdict() for point in calibration(kept)]
        if curve:
            context.session.log({"method": method, "when": f"{when}, {name}", "calibration": curve}, step)
        context.session.progress(step + 1, len(trees), name)
    if sum(row.metric == "first_error_f1" for row in rows) > 1:
        rows.append(average_row(rows, config.name, method, when))
    write_text(context.session.out / "rows.json", to_json(rows))
    write_json(context.session.out / "counts.json", counts)
    write_json(context.session.out / "samples.json", [])


def _trained_on(paths: list[str], benchmarks: dict[str, list[StepTree]], context: Context) -> set[str]:
    """Ids of the benchmark problems that occur in files of labels."""
    if not paths:
        return set()
    problems = [Problem(t.problem_id, t.prompt, "", {}) for trees in benchmarks.values() for t in trees]
    held_out = HeldOut(problems, context.contamination)
    trained = (tree for path in paths for tree in Import(path))
    return {m.problem_id for tree in trained for m in held_out.matches(tree.prompt, "\n".join(tree.steps))}


class _Reader:
    """Finds the scores of a benchmark's solutions; the model is loaded when a benchmark first needs it."""

    def __init__(self, config: StepBenchmarks, context: Context):
        self.config, self.context = config, context
        self.scorer: StepScorer | None = None

    def read(self, benchmark: Benchmark, trees: list[StepTree]) -> tuple[list[Scored], list[LeftOut]]:
        if benchmark.scores == OWN_LABELS:
            made = [
                Scored(t.problem_id, [math.nan] * len(path), labels, t.outcomes[path[-1]])
                for t in trees
                for path, labels in solutions(t)
            ]
            return made, []
        if benchmark.scores is not None:
            return given_scores(Path(benchmark.scores), trees), []
        if self.scorer is None and self.config.critic is not None:
            self.scorer = _by_critic(self.config.critic, self.config, self.context)
        if self.scorer is None:
            if self.config.prm is None:
                raise UserError(
                    "a benchmark has no scores; expected prm: STAGE OR FOLDER, or critic, or scores: FILE"
                )
            self.scorer = _scorer(self.config.prm, self.context)
        solved = [(t, path, labels) for t in trees for path, labels in solutions(t)]
        found = self.scorer(trees)
        # a solution that does not fit the model has no scores, and counts as not found
        scored = [
            Scored(
                t.problem_id, labels, None if isinstance(scores, LeftOut) else scores, t.outcomes[path[-1]]
            )
            for (t, path, labels), scores in zip(solved, found, strict=True)
        ]
        return scored, [scores for scores in found if isinstance(scores, LeftOut)]


# the scores of each solution of the trees, in order, or why it has none
StepScorer = Callable[[list[StepTree]], list[list[float] | LeftOut]]


def _scorer(prm: str, context: Context) -> StepScorer:
    """A model that this program trained reads steps as they were trained; a published one in its own layout."""
    model = load_reward_model(context.model(prm))
    if isinstance(model, PublishedPRM):
        return _published(model, context)
    return _own(model, context.prompting(prm), context)


def _own(net: ScoreNet, prompting: Prompting, context: Context) -> StepScorer:
    limit = int(getattr(net.lm.config, "max_position_embeddings", 1 << 20))

    def scores_of(trees: list[StepTree]) -> list[list[float] | LeftOut]:
        encoded = [e for t in trees for e in encode(t, prompting, limit)]
        chains = [_chain(e) for e in encoded if isinstance(e, Encoded)]
        context.session.ledger.add("prm", scored=score_steps(net, chains, "prm"))
        scores = iter([c.scores["prm"][1] for c in chains])
        return [next(scores) if isinstance(e, Encoded) else e for e in encoded]

    return scores_of


def _published(prm: PublishedPRM, context: Context) -> StepScorer:
    def scores_of(trees: list[StepTree]) -> list[list[float] | LeftOut]:
        found: list[list[float] | LeftOut] = []
        for tree in trees:
            paths = [path for path, _ in solutions(tree)]
            texts = [[tree.steps[i] for i in path] for path in paths]
            context.session.ledger.add(
                "prm", scored=sum(len(tokens_of(prm, tree.prompt, steps)[0]) for steps in texts)
            )
            for path, scores in zip(paths, score_solutions(prm, tree.prompt, texts), strict=True):
                line = tree.lines[path[-1]] if tree.lines else 0
                fits = not any(map(math.isnan, scores))
                found.append(
                    scores if fits else LeftOut(tree.source, line, "longer than the model's context")
                )
        return found

    return scores_of


def _by_critic(model: str, config: StepBenchmarks, context: Context) -> StepScorer:
    """A critique model that writes about each solution first; those for which it has no room have no scores."""
    engine, prompting = critic_engine(model, context, config.engine), context.prompting(model).bare()
    score = step_scorer(engine, prompting, config.critique, context.session.seed)

    def scores_of(trees: list[StepTree]) -> list[list[float] | LeftOut]:
        solved = [(t, path, [t.steps[i] for i in path]) for t in trees for path, _ in solutions(t)]
        sizes = [
            longest_reading(prompting, t.prompt, steps, config.critique.max_tokens) for t, _, steps in solved
        ]
        fitting = [
            (t.prompt, steps)
            for (t, _, steps), n in zip(solved, sizes, strict=True)
            if n <= engine.max_context
        ]
        found = iter(score([p for p, _ in fitting], [s for _, s in fitting]))
        return [
            next(found)
            if n <= engine.max_context
            else LeftOut(t.source, t.lines[path[-1]] if t.lines else 0, "longer than the model's context")
            for (t, path, _), n in zip(solved, sizes, strict=True)
        ]

    return scores_of


def _chain(e: Encoded) -> Tree:
    tree = Tree.of_prompt(Problem(e.tree.problem_id, "", "", {}), e.prompt_ids)
    tree.add(Node(ROOT, len(e.prompt_ids), tuple(e.completion_ids), step_ends=tuple(e.step_ends)))
    return tree


def given_scores(file: Path, trees: list[StepTree]) -> list[Scored]:
    """The rows of a file of scores beside a benchmark's solutions, by `id` where both have one, else in order."""
    rows = [row for path in data_files(file) for row in read_rows(path)]
    bad = next((row for row in rows if isinstance(row, LeftOut)), None)
    if bad is not None:
        raise UserError(
            f"{file}, line {bad.line}: {bad.reason}; expected a JSON object with scores or prediction"
        )
    values = [row.value for row in rows if not isinstance(row, LeftOut)]
    by_id = {str(v["id"]): v for v in values if "id" in v}
    if by_id and len(by_id) != len(values):
        raise UserError(
            f"{file} has {len(by_id)} ids for {len(values)} rows; expected an id of its own in every row, or none at all"
        )
    solved = [(t, path, labels) for t in trees for path, labels in solutions(t)]
    if not by_id and len(values) != len(solved):
        raise UserError(
            f"{file} has {len(values)} rows for {len(solved)} solutions; expected one each, or ids"
        )
    scored = []
    for number, (tree, path, labels) in enumerate(solved):
        own_id = str(json.loads(tree.extra).get("id", ""))
        value = by_id.get(own_id) if by_id else values[number]
        if value is None:
            raise UserError(f"{file} has no row with the id {own_id!r}; expected scores of every solution")
        scored.append(_given(value, tree, path, labels, f"{file}, solution {own_id or number + 1}"))
    return scored


def _given(value: dict[str, Any], tree: StepTree, path: list[int], labels: list[float], where: str) -> Scored:
    outcome = tree.outcomes[path[-1]]
    if "scores" not in value:
        try:
            prediction = whole(value.get("prediction"), "prediction")
        except Unusable as problem:
            raise UserError(
                f"{where} has neither scores nor an integer prediction ({problem}); expected one of them"
            ) from problem
        return Scored(tree.problem_id, labels, None, outcome, prediction)
    try:
        scores = [probability(s, "score") for s in value["scores"]]
    except (Unusable, TypeError) as problem:
        raise UserError(f"{where}: {problem}; expected numbers from 0 to 1") from problem
    if len(scores) != len(path) or any(map(math.isnan, scores)):
        raise UserError(f"{where} has {len(scores)} scores; expected one for each of its {len(path)} steps")
    return Scored(tree.problem_id, labels, scores, outcome)
