"""Build on what is better: of models, the one that solves most of a development set."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from reasoner.config import Config, MayChange
from reasoner.engine.connect import EngineConfig
from reasoner.engine.protocol import Sampling
from reasoner.folder import StageName
from reasoner.metrics.intervals import paired_difference
from reasoner.policy.models import base_of, is_adapter, note_base
from reasoner.registry import UserError
from reasoner.report.rows import MetricRow, gain_row, mean_row, to_json
from reasoner.scoring.outcome import core_seconds, judge
from reasoner.search.chain import fan
from reasoner.search.grow import Growth, grow
from reasoner.stages.context import Context, make_engine
from reasoner.stages.evaluate import shown
from reasoner.stages.references import ModelName, ProblemSet
from reasoner.store import whole, write_json, write_text
from reasoner.tree import Problem, Tree, outcome_reward


class Keep(Config):
    """The model that later stages build on: the last one, or an earlier one where that solves more of the problems.

    All of them stay where they are, and what was measured is reported.
    """

    kind: Literal["keep"]
    name: StageName = "keep"
    models: list[ModelName] = Field(
        min_length=2, description="stages, folders or hub names, the newest last; of equally good ones the newest is kept"
    )  # fmt: skip
    problems: list[ProblemSet] = Field(
        ["dev"], description="problem sets that decide; never those of the test"
    )
    max_tokens: int = Field(256, ge=1, description="longest completion")
    num_slots: Annotated[int, MayChange()] = Field(256, ge=1, description="sequences decoded at once")
    engine: Annotated[EngineConfig, MayChange()] = EngineConfig()


def run_keep(config: Keep, context: Context) -> None:
    problems = [item.problem for item in context.items(config.problems)]
    names = shown(config.models)
    right = {}
    for done, model in enumerate(config.models):
        right[model] = _solved(model, problems, config, context)
        context.session.progress(done + 1, len(config.models), names[model])
    known = [i for i in range(len(problems)) if all(right[m][i] is not None for m in config.models)]
    if not known:
        raise UserError(
            f"no answer to the {len(problems)} problems of {', '.join(config.problems)} was judged for every model; "
            "expected some to choose by"
        )
    scores = {m: [float(right[m][i] or 0.0) for i in known] for m in config.models}
    kept = max(config.models, key=lambda m: (sum(scores[m]), config.models.index(m)))
    newest = config.models[-1]
    rows: list[MetricRow] = [
        mean_row(config.name, "pass@1", "greedy", names[m], ", ".join(config.problems), scores[m])
        for m in config.models
    ]
    for other in config.models[:-1]:
        paired = paired_difference(scores[newest], scores[other])
        subset = ", ".join(config.problems)
        rows.append(gain_row(config.name, "pass@1", "greedy", names[newest], names[other], subset, paired))
    context.session.log({"keep/newest_is_kept": float(kept == newest), "kept": names[kept]}, 0)
    _copy(context.model(kept), context.session.out / "model")
    folder = context.out / "stages" / config.name
    write_text(folder / "rows.json", to_json(rows))
    write_json(folder / "samples.json", [])


def _solved(model: str, problems: list[Problem], config: Keep, context: Context) -> list[float | None]:
    """By problem whether the greedy answer is right; None where our side failed to judge it."""
    prompting, session = context.prompting(model), context.session
    trees = [Tree.of_prompt(p, prompting.prompt_ids(p.prompt)) for p in problems]
    longest = max(len(t.nodes[0].token_ids) for t in trees) + config.max_tokens
    engine = make_engine(model, context, longest, config.num_slots, config.engine, alone=True)
    grow(trees, engine, fan(1), Growth(prompting.mark_steps, config.max_tokens, Sampling(0.0), session.seed))
    num = judge(trees, prompting.decode).total()
    session.ledger.add("verifier", verifications=num, verifier_seconds=core_seconds(trees))
    return [outcome_reward(tree.verdicts[tree.leaves()[0]]) for tree in trees]


def _copy(source: str, folder: Path) -> None:
    """The model's files under another name; an adapter's base stays where it is."""
    if not Path(source).is_dir():
        raise UserError(f"{source} is a hub name, and only folders can be kept; expected a stage or a folder")
    with whole(folder):
        shutil.copytree(source, folder, dirs_exist_ok=True)
    if is_adapter(source):
        note_base(folder, base_of(source))
