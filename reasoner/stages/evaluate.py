"""Measure policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from reasoner.config import Config, MayChange
from reasoner.economics.cost import Prices
from reasoner.engine.connect import EngineConfig
from reasoner.evals.frontier import Bench, points_of, rows_of, to_plain
from reasoner.evals.reward_quality import calibration_curve
from reasoner.evals.rows import MetricRow, to_json
from reasoner.evals.run import RewardModels, Subject, calibrated_threshold, measure
from reasoner.evals.tools import Solver
from reasoner.folder import StageName
from reasoner.ledger import Ledger
from reasoner.registry import UserError
from reasoner.scoring.aggregate import default_aggregate
from reasoner.scoring.prm import score_steps
from reasoner.scoring.reward_models import load_orm, load_reward_model
from reasoner.search.method import AggregateName
from reasoner.search.methods import MethodConfig
from reasoner.stages.context import Context, make_engine
from reasoner.stages.references import AmongKey, ModelName, ProblemSet, RewardModelName, TreesOf
from reasoner.store import write_json, write_text
from reasoner.tree import Problem


class Evaluate(Config):
    """Measure policies on held-out problems."""

    kind: Literal["evaluate"]
    name: StageName = "evaluate"
    policies: list[ModelName] = Field(
        min_length=1, description="stages to measure, in the order of training; or model folders"
    )
    sampled: list[Annotated[str, AmongKey("policies")]] = Field(
        [], description="of these, the ones that are also sampled and ranked"
    )
    problems: list[ProblemSet] = Field(["test"], description="problem sets")
    num_samples: int = Field(8, ge=1, description="answers per problem for sampled policies")
    temperature: float = Field(
        1.0, gt=0, description="sampling temperature of sampled policies; methods have their own"
    )
    methods: list[MethodConfig] = Field(
        [], description="test-time methods; each policy answers each problem set by each of them"
    )
    budgets: list[int] = Field(
        [], description="num_samples of every method that samples; empty: each its own"
    )
    max_tokens: int = Field(256, ge=1, description="longest completion")
    prm: RewardModelName | None = Field(None, description="stage of the PRM that ranks answers")
    orm: RewardModelName | None = Field(None, description="stage of the ORM that ranks answers")
    aggregate: AggregateName | None = Field(
        None, description="from step scores to one score; by default fits Monte-Carlo labels"
    )
    calibrate_on: TreesOf | None = Field(
        None, description="stage whose judged trees set the PRM's error threshold"
    )
    num_slots: Annotated[int, MayChange()] = Field(256, ge=1, description="sequences decoded at once")
    engine: Annotated[EngineConfig, MayChange()] = EngineConfig()
    prices: Prices = Field(default=Prices.model_validate({}), description="machine to price tokens on")


def run_evaluate(config: Evaluate, context: Context) -> None:
    seed = context.session.seed + 10**6  # far from the seeds of training
    aggregate = config.aggregate or default_aggregate(context.model(config.prm) if config.prm else None)
    if any(k < 1 for k in config.budgets):
        raise UserError(f"budgets are {config.budgets}; expected numbers of samples from 1 up")
    decode = context.prompting(config.policies[0]).decode
    prm = load_reward_model(context.model(config.prm), decode) if config.prm else None
    orm = load_orm(context.model(config.orm)) if config.orm else None
    models = RewardModels(prm, orm, aggregate)
    rows, samples = (_by_methods if config.methods else _by_sampling)(config, context, models, seed)
    write_text(context.session.out / "rows.json", to_json(rows))
    write_json(context.session.out / "samples.json", samples)


def _longest(problems: list[Problem], config: Evaluate, context: Context) -> int:
    prompting = context.prompting(config.policies[0])
    return max(len(prompting.prompt_ids(p.prompt)) for p in problems) + config.max_tokens


def _by_methods(
    config: Evaluate, context: Context, models: RewardModels, seed: int
) -> tuple[list[MetricRow], list[dict]]:
    """Every policy × problem set × method, each charged all that it costs."""
    sets = {name: [i.problem for i in context.items([name])] for name in config.problems}
    longest = _longest([p for problems in sets.values() for p in problems], config, context)
    points = []
    names = shown(config.policies)
    for i, policy in enumerate(config.policies):
        ledger = Ledger()
        engine = make_engine(policy, context, longest, config.num_slots, config.engine)
        engine.ledger = ledger
        solver = Solver(names[policy], engine, context.prompting(policy), ledger, models.prm, models.orm)
        for j, (name, problems) in enumerate(sets.items()):
            part = i * len(sets) + j

            def progress(done: int, total: int, note: str, part: int = part) -> None:
                context.session.progress(part * total + done, total * len(sets) * len(config.policies), note)

            bench = Bench(name, problems, config.max_tokens, seed, config.prices)
            points += points_of(bench, solver, config.methods, config.budgets, progress)
    for p in points:
        n = len(p.outcomes)
        counts = {
            c: round(getattr(p.spent, c) * n)
            for c in ("prefilled", "reused", "decoded", "scored", "verifications")
        }
        context.session.ledger.add(f"{p.model}, {p.name}", **counts)
    told = {
        "prompt": context.prompt.model_dump(),
        "max_tokens": config.max_tokens,
        "points": to_plain(points),
    }
    write_json(context.session.out / "points.json", told)
    return rows_of(points, config.name), []


def shown(policies: Sequence[str]) -> dict[str, str]:
    """A short name for each policy: of runs/demo/models/ppo/model ppo, and demo/ppo beside another run's ppo."""
    parts = {p: [x for x in Path(p).parts if x not in ("model", "models")] or [p] for p in policies}
    lengths = dict.fromkeys(parts, 1)
    while True:
        names = {p: "/".join(parts[p][-n:]) for p, n in lengths.items()}
        alike = [p for p in names if list(names.values()).count(names[p]) > 1 and lengths[p] < len(parts[p])]
        if not alike:
            break
        for policy in alike:
            lengths[policy] += 1
    # what differs in nothing but "model" keeps its whole path
    return {p: name if list(names.values()).count(name) == 1 else p for p, name in names.items()}


def _by_sampling(
    config: Evaluate, context: Context, models: RewardModels, seed: int
) -> tuple[list[MetricRow], list[dict]]:
    """Greedy answers, sampled answers and the reward models' quality, of each policy."""
    problems = [i.problem for i in context.items(config.problems)]
    prompting = context.prompting(config.policies[0])
    longest = _longest(problems, config, context)
    if models.prm is not None and config.calibrate_on:
        trees = context.trees(config.calibrate_on)[:300]
        score_steps(models.prm, trees, "prm")
        models = replace(models, threshold=calibrated_threshold(trees, prompting))
    rows, samples = [], []
    names = shown(config.policies)
    for i, policy in enumerate(config.policies):
        num = config.num_samples if policy in config.sampled else 0
        engine = make_engine(policy, context, longest, config.num_slots, config.engine)
        subject = Subject(names[policy], engine, num, config.temperature)

        def progress(done: int, total: int, note: str, i: int = i) -> None:
            context.session.progress(i * total + done, total * len(config.policies), note)

        found = measure(subject, problems, prompting, models, config.max_tokens, seed, config.name, progress)
        rows += found.rows
        samples += found.samples
        if found.step_scores:
            scores, labels = zip(*found.step_scores, strict=True)
            curve = [p._asdict() for p in calibration_curve(scores, labels)]
            context.session.log({"method": "prm", "when": names[policy], "calibration": curve}, i)
    return rows, samples
