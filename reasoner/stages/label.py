"""Judged trees into records."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reasoner.config import Config, Entry, MayChange
from reasoner.engine.connect import EngineConfig
from reasoner.folder import StageName
from reasoner.registry import lookup
from reasoner.scoring.critique import critic, judge_with
from reasoner.signals.consensus import JUDGES, StepJudge, agrees, with_votes
from reasoner.signals.outcome_labels import outcome_labels
from reasoner.signals.pairs import PairConfig, sibling_pairs
from reasoner.signals.step_labels import KINDS, StepLabelConfig, step_labels
from reasoner.signals.step_pairs import StepPairConfig, step_pairs
from reasoner.signals.traces import TraceConfig, traces
from reasoner.stages.context import Context, make_engine
from reasoner.stages.references import ModelName, TreesOf
from reasoner.store import write_records


class Label(Config):
    """Turn trees into step labels, outcome labels, preference pairs and demonstrations, each a folder of records/<name>."""

    kind: Literal["label"]
    name: StageName = "label"
    trees: TreesOf = Field(default="verify", description="stage whose judged trees are labelled")
    model: ModelName = Field(description="model whose tokenizer reads them")
    kinds: Annotated[list[str], Entry("label kind", "reasoner.signals.step_labels:KINDS")] = Field(
        default=["hard", "soft"], description="step labels to write: hard | soft | posterior | spread"
    )
    ends: Annotated[str, Entry("choice of chain ends", "reasoner.signals.step_labels:ENDS")] = Field(
        default="prompt",
        description="chains whose verdict is their last step's label: prompt (drawn from it) | all | none",
    )
    min_continuations: int = Field(
        default=1, ge=1, description="states with fewer judged continuations get no label"
    )
    drop_after_error: bool = Field(
        default=False, description="no labels after a solution's first step of label 0"
    )
    only_mixed: bool = Field(
        default=False,
        description="leave out problems whose chains from the prompt are all right or all wrong",
    )
    judge: Annotated[str, Entry("judge of steps", "reasoner.signals.consensus:JUDGES")] = Field(
        default="",
        description="second labeller, e.g. arithmetic, or module:function: records on whose first error it agrees go to "
        "<kind>_agreed, all of them with both votes to <kind>_votes",
    )
    critic: ModelName = Field(
        default="", description="critique model that is asked as second labeller, in the place of `judge`"
    )
    engine: Annotated[EngineConfig, MayChange()] = EngineConfig()
    pairs: PairConfig = PairConfig()
    step_pairs: StepPairConfig = StepPairConfig()
    traces: TraceConfig = TraceConfig()


def run_label(config: Label, context: Context) -> None:
    trees, prompting = context.trees(config.trees), context.prompting(config.model)
    decode = prompting.decode
    folder = context.out / "records" / config.name
    made = {}
    for kind in config.kinds:
        lookup(KINDS, kind, "label kind")
        labels = StepLabelConfig(
            kind=kind,
            ends=config.ends,
            min_continuations=config.min_continuations,
            drop_after_error=config.drop_after_error,
            only_mixed=config.only_mixed,
        )
        made[kind] = write_records(folder / kind, step_labels(trees, labels, decode))
        if config.judge or config.critic:
            judge = (
                _critic(config, context) if config.critic else lookup(JUDGES, config.judge, "judge of steps")
            )
            voted = list(with_votes(step_labels(trees, labels, decode), judge))
            write_records(folder / f"{kind}_votes", voted)
            made[f"{kind}_agreed"] = write_records(folder / f"{kind}_agreed", filter(agrees, voted))
    made["outcome"] = write_records(folder / "outcome", outcome_labels(trees, decode))
    for kind, records in {
        "pairs": list(sibling_pairs(trees, config.pairs, decode)),
        "step_pairs": step_pairs(trees, config.step_pairs, decode),
        "traces": list(traces(trees, config.traces, decode, prompting.encode)),
    }.items():
        made[kind] = write_records(folder / kind, records) if records else 0
    kept = sum(any(v.status == "correct" for v in t.verdicts.values()) for t in trees)
    context.session.log(
        {"label/problems_solved_sometimes": kept, **{f"label/{k}": n for k, n in made.items()}}, 0
    )
    context.session.ledger.add("policy", trajectories_kept=made["outcome"])


def _critic(config: Label, context: Context) -> StepJudge:
    """The critique model behind an engine of its own."""
    room = 4096
    engine = make_engine(config.critic, context, room, 64, config.engine)
    return judge_with(critic(engine, context.prompting(config.critic), seed=context.session.seed))
