"""Measure policies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from reasoner.config import Config
from reasoner.evals.reward_quality import calibration_curve
from reasoner.evals.rows import to_json
from reasoner.evals.run import RewardModels, Subject, calibrated_threshold, measure
from reasoner.policy.heads import ScoreNet
from reasoner.registry import UserError
from reasoner.scoring.aggregate import AGGREGATES, BY_LABEL_KIND
from reasoner.scoring.prm import score_steps
from reasoner.stages.context import Context, make_engine
from reasoner.store import write_json, write_text


class Evaluate(Config):
    """Measure policies on held-out problems."""

    kind: Literal["evaluate"]
    name: str = "evaluate"
    policies: list[str] = Field(description="stages to measure, in the order of training")
    sampled: list[str] = Field([], description="of these, the ones that are also sampled and ranked")
    problems: list[str] = Field(["test"], description="problem sets")
    num_samples: int = Field(8, ge=1, description="answers per problem for sampled policies")
    max_tokens: int = Field(256, ge=1, description="longest completion")
    prm: str | None = Field(None, description="stage of the PRM that ranks answers")
    orm: str | None = Field(None, description="stage of the ORM that ranks answers")
    aggregate: str | None = Field(
        None, description="from step scores to one score; by default fits Monte-Carlo labels"
    )
    calibrate_on: str | None = Field(
        None, description="stage whose judged trees set the PRM's error threshold"
    )
    num_slots: int = Field(256, ge=1, description="sequences decoded at once")


def run_evaluate(config: Evaluate, context: Context) -> None:
    problems = [i.problem for i in context.items(config.problems)]
    prompting = context.prompting(config.policies[0])
    longest = max(len(prompting.prompt_ids(p.prompt)) for p in problems) + config.max_tokens
    aggregate = config.aggregate or BY_LABEL_KIND["soft"]
    if aggregate not in AGGREGATES:
        raise UserError(f"aggregate is {aggregate!r}; expected one of {', '.join(AGGREGATES)}")
    models = RewardModels(
        ScoreNet.load(Path(context.model(config.prm))).eval() if config.prm else None,
        ScoreNet.load(Path(context.model(config.orm))).eval() if config.orm else None,
        aggregate,
    )
    if models.prm is not None and config.calibrate_on:
        trees = context.trees(config.calibrate_on)[:300]
        score_steps(models.prm, trees, "prm")
        models = replace(models, threshold=calibrated_threshold(trees, prompting))
    rows, samples = [], []
    for i, policy in enumerate(config.policies):
        num = config.num_samples if policy in config.sampled else 0
        subject = Subject(policy, make_engine(policy, context, longest, config.num_slots), num)

        def progress(done: int, total: int, note: str, i: int = i) -> None:
            context.session.progress(i * total + done, total * len(config.policies), note)

        seed = context.session.seed + 10**6  # far from the seeds of training
        found = measure(subject, problems, prompting, models, config.max_tokens, seed, config.name, progress)
        rows += found.rows
        samples += found.samples[:6]
        if found.step_scores:
            scores, labels = zip(*found.step_scores, strict=True)
            curve = [p._asdict() for p in calibration_curve(scores, labels)]
            context.session.log({"method": "prm", "when": policy, "calibration": curve}, i)
    write_text(context.session.out / "rows.json", to_json(rows))
    write_json(context.session.out / "samples.json", samples)
