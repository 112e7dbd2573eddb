"""Measure policies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Literal

from accelerate import PartialState
from pydantic import Field

from reasoner.config import Config, MayChange
from reasoner.data.prompting import Prompting
from reasoner.economics.cost import Prices
from reasoner.engine.connect import EngineConfig
from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Sampling
from reasoner.engine.remote import RemoteEngine
from reasoner.evals.frontier import COUNTS, Bench, each_alone, from_plain, points_of, rows_of, to_plain
from reasoner.evals.run import Answered, RewardModels, calibrated_threshold, measure, scored
from reasoner.evals.tools import Solver
from reasoner.folder import StageName
from reasoner.ledger import Ledger
from reasoner.metrics.reward_quality import calibration_curve
from reasoner.parts import trees_per_part
from reasoner.registry import UserError
from reasoner.report.rows import MetricRow, to_json
from reasoner.scoring.aggregate import default_aggregate
from reasoner.scoring.judging import Judging, Settled
from reasoner.scoring.prm import score_steps
from reasoner.scoring.reward_models import load_orm, load_reward_model
from reasoner.search.chain import fan
from reasoner.search.grow import Growth
from reasoner.search.method import AggregateName
from reasoner.search.methods import MethodConfig
from reasoner.stages.context import Context, make_engine
from reasoner.stages.references import AmongKey, ModelName, ProblemSet, RewardModelName, TreesOf
from reasoner.stages.share import AHEAD, Share, grow_and_judge, trees_of_parts, verdict_costs, verdict_counts
from reasoner.store import put_trees, read_json, read_trees, write_json, write_text
from reasoner.tree import Problem, Tree

POINTS = "points"  # beside the marks of the parts


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
    (_by_methods if config.methods else _by_sampling)(config, context, models, seed)


def _write(rows: list[MetricRow], samples: list[dict], context: Context) -> None:
    write_text(context.session.out / "rows.json", to_json(rows))
    write_json(context.session.out / "samples.json", samples)


def _longest(problems: list[Problem], config: Evaluate, context: Context) -> int:
    prompting = context.prompting(config.policies[0])
    return max(len(prompting.prompt_ids(p.prompt)) for p in problems) + config.max_tokens


def _by_methods(config: Evaluate, context: Context, models: RewardModels, seed: int) -> None:
    """Every policy × problem set × method, each charged all that it costs; a part is what shares nothing with others."""
    session = context.session
    assert session.parts is not None
    sets = {name: [i.problem for i in context.items([name])] for name in config.problems}
    longest = _longest([p for problems in sets.values() for p in problems], config, context)
    names = shown(config.policies)
    alone = each_alone(config.methods, config.budgets)
    parts = list(product(config.policies, sets, alone))
    # servers are measured by one process, since they are emptied between methods
    share = Share(session, config.name, len(parts), together=config.engine.kind == "local")
    solver = None
    for done, number in enumerate(share.numbers):
        policy, name, (methods, budgets) = parts[number]
        if solver is None or solver.name != names[policy]:
            ledger = Ledger()
            engine = make_engine(policy, context, longest, config.num_slots, config.engine, alone=True)
            engine.ledger = ledger
            solver = Solver(names[policy], engine, context.prompting(policy), ledger, models.prm, models.orm)

        def progress(at: int, total: int, note: str, done: int = done) -> None:
            session.progress(done * total + at, total * len(share.numbers), note)

        bench = Bench(name, sets[name], config.max_tokens, seed, config.prices)
        points = points_of(bench, solver, methods, budgets, progress)
        for p in points:
            counts = {c: round(getattr(p.spent, c) * len(p.outcomes)) for c in COUNTS}
            session.ledger.add(f"{p.model}, {p.name}", **counts)
        write_json(session.parts / POINTS / f"{number}.json", to_plain(points))
        share.done(number, {})
    share.conclude()
    if PartialState().is_main_process:
        found = [p for i in range(len(parts)) for p in read_json(session.parts / POINTS / f"{i}.json")]
        told = {"prompt": context.prompt.model_dump(), "max_tokens": config.max_tokens, "points": found}
        write_json(session.out / "points.json", told)
        _write(rows_of([from_plain(p) for p in found], config.name), [], context)


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


def _by_sampling(config: Evaluate, context: Context, models: RewardModels, seed: int) -> None:
    """Greedy answers, sampled answers and the reward models' quality, of each policy."""
    session, prompting = context.session, context.prompting(config.policies[0])
    assert session.parts is not None
    folder = session.parts / "trees"
    problems = [i.problem for i in context.items(config.problems)]
    size = trees_per_part(len(problems))
    draws = [(p, sampled) for p in config.policies for sampled in (False, True)[: 1 + (p in config.sampled)]]
    num = -(-len(problems) // size)  # parts of one draw
    share = Share(session, config.name, num * len(draws))
    longest = _longest(problems, config, context)
    for policy in config.policies:
        own = [number for number in share.numbers if draws[number // num][0] == policy]
        if not own and config.engine.kind == "local":
            continue
        engine = make_engine(policy, context, longest, config.num_slots, config.engine)
        for is_sampled in (False, True):
            of_draw = [number for number in own if draws[number // num][1] == is_sampled]
            parts = ((n, problems[n % num * size : (n % num + 1) * size]) for n in of_draw)
            _draw(is_sampled, parts, folder, share, engine, prompting, models, config, seed)
    share.conclude()
    if not PartialState().is_main_process:
        return
    if models.prm is not None and config.calibrate_on:
        trees = list(islice(read_trees(context.out / "trees" / config.calibrate_on), 300))
        score_steps(models.prm, trees, "prm")
        models = replace(models, threshold=calibrated_threshold(trees, prompting))
    drawn = {
        draw: [tree for n in range(i * num, (i + 1) * num) for tree in read_trees(folder / str(n))]
        for i, draw in enumerate(draws)
    }
    rows, samples = [], []
    for i, (policy, when) in enumerate(shown(config.policies).items()):
        answered = Answered(when, drawn[policy, False], drawn.get((policy, True), []))
        found = measure(answered, prompting, models, config.name)
        rows += found.rows
        samples += found.samples
        if found.step_scores:
            scores, labels = zip(*found.step_scores, strict=True)
            curve = [p._asdict() for p in calibration_curve(scores, labels)]
            session.log({"method": "prm", "when": when, "calibration": curve}, i)
    _write(rows, samples, context)


def _draw(
    is_sampled: bool,
    parts: Iterable[tuple[int, list[Problem]]],
    folder: Path,
    share: Share,
    engine: LocalEngine | RemoteEngine,
    prompting: Prompting,
    models: RewardModels,
    config: Evaluate,
    seed: int,
) -> None:
    """Judged answers to the problems of each part, greedy or sampled and then scored, written under its number."""
    sampling = Sampling(config.temperature if is_sampled else 0.0)
    growth = Growth(prompting.mark_steps, config.max_tokens, sampling, seed + is_sampled)
    judging = Judging(prompting.decode)

    def finish(number: int, trees: list[Tree], settled: list[Settled]) -> None:
        ledger = share.session.ledger
        ledger.add("verifier", **verdict_costs(settled))
        for name, tokens in (scored(trees, models) if is_sampled else {}).items():
            ledger.add(name, scored=tokens)
        put_trees(folder / str(number), 0, trees)
        share.done(number, *verdict_counts(settled, config.name))
        share.session.progress(share.numbers.index(number) + 1, len(share.numbers), "")

    trees, on_done = trees_of_parts(
        ((n, [Tree.of_prompt(p, prompting.prompt_ids(p.prompt)) for p in of_part]) for n, of_part in parts),
        finish,
    )
    policy = fan(config.num_samples if is_sampled else 1)
    grow_and_judge(trees, on_done, judging, engine, policy, growth, AHEAD * config.num_slots)
