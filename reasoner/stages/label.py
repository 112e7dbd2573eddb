"""Judged trees into records."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal

from accelerate import PartialState
from pydantic import Field

from reasoner.config import Config, Entry, MayChange
from reasoner.data.prompting import Prompting
from reasoner.engine.connect import EngineConfig
from reasoner.folder import StageName
from reasoner.records import PreferencePair
from reasoner.registry import lookup
from reasoner.scoring.critique import critic, judge_with
from reasoner.signals.consensus import JUDGES, StepJudge, agrees, with_votes
from reasoner.signals.outcome_labels import outcome_labels
from reasoner.signals.pairs import PairConfig, sibling_pairs
from reasoner.signals.step_labels import KINDS, StepLabelConfig, step_labels
from reasoner.signals.step_pairs import StepPairConfig, in_balance, longer_side, step_pairs
from reasoner.signals.traces import TraceConfig, traces
from reasoner.stages.context import Context
from reasoner.stages.critiques import critic_engine
from reasoner.stages.references import ModelName, TreesOf
from reasoner.stages.share import Own, Share
from reasoner.store import num_shards, put_records, read_records, read_trees, write_records
from reasoner.tree import Tree

STEP_PAIRS = "step_pairs"


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
    session, folder = context.session, context.out / "records" / config.name
    share = Share(session, config.name, num_shards(context.out / "trees" / config.trees))
    votes = ("votes", "agreed") if config.judge or config.critic else ()
    voted = [f"{kind}_{what}" for kind in config.kinds for what in votes]
    for kind in (*config.kinds, *voted, "outcome"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    share.work(label_parts, config, context)
    total = share.conclude()
    if PartialState().is_main_process:
        found = _unbalanced(config, context)
        total["label/step_pairs"] = _balance(found, folder / STEP_PAIRS, config.step_pairs.balance)
    session.log({name: n for name, n in total.items() if not name.endswith("_votes")}, 0)


def _unbalanced(config: Label, context: Context) -> Path:
    """Where pairs of steps lie until all are there: which of them stay in balance is for all of them together."""
    parts = context.session.parts
    return (parts if parts is not None else context.out / "records" / config.name) / STEP_PAIRS


def label_parts(config: Label, context: Context, own: Own) -> None:
    """Write the records of one process's own parts."""
    prompting, session = context.prompting(config.model), context.session
    source, folder = context.out / "trees" / config.trees, context.out / "records" / config.name
    judge = _judge(config, context)
    as_found = config.step_pairs.model_copy(update={"balance": False})
    for done, number in enumerate(own.numbers, start=1):
        trees = list(read_trees(source, number))
        made = {
            kind: put_records(folder / kind, number, records)
            for kind, records in _records(trees, config, prompting, judge).items()
        }
        pairs = list(step_pairs(trees, as_found, prompting.decode))
        put_records(_unbalanced(config, context), number, pairs)
        kept = sum(any(v.status == "correct" for v in t.verdicts.values()) for t in trees)
        session.ledger.add("policy", trajectories_kept=made["outcome"])
        own.done(
            number, {"label/problems_solved_sometimes": kept, **{f"label/{k}": n for k, n in made.items()}}
        )
        session.progress(done, own.num, "")


def _balance(found: Path, folder: Path, balances: bool) -> int:
    """Write the pairs of steps that stay, read one after the other; none at all are no folder."""
    shutil.rmtree(folder, ignore_errors=True)  # of a start that was killed here
    if not num_shards(found):
        return 0
    sides = bytearray(1 + longer_side(pair) for pair in read_records(found, PreferencePair))
    kept = in_balance([side - 1 for side in sides]) if balances else set(range(len(sides)))
    staying = (pair for i, pair in enumerate(read_records(found, PreferencePair)) if i in kept)
    return write_records(folder, staying) if kept else 0


def _records(
    trees: list[Tree], config: Label, prompting: Prompting, judge: StepJudge | None
) -> dict[str, list]:
    """Records of the trees by kind."""
    decode = prompting.decode
    made: dict[str, list] = {}
    for kind in config.kinds:
        labels = StepLabelConfig(
            kind=kind,
            ends=config.ends,
            min_continuations=config.min_continuations,
            drop_after_error=config.drop_after_error,
            only_mixed=config.only_mixed,
        )
        made[kind] = list(step_labels(trees, labels, decode))
        if judge is not None:
            made[f"{kind}_votes"] = list(with_votes(made[kind], judge))
            made[f"{kind}_agreed"] = [record for record in made[f"{kind}_votes"] if agrees(record)]
    made["outcome"] = list(outcome_labels(trees, decode))
    made["pairs"] = list(sibling_pairs(trees, config.pairs, decode))
    made["traces"] = list(traces(trees, config.traces, decode, prompting.encode))
    return made


def _judge(config: Label, context: Context) -> StepJudge | None:
    """The second labeller, if one is asked for; an unknown kind of label or judge is a UserError."""
    for kind in config.kinds:
        lookup(KINDS, kind, "label kind")
    if config.critic:
        return _critic(config, context)
    return lookup(JUDGES, config.judge, "judge of steps") if config.judge else None


def _critic(config: Label, context: Context) -> StepJudge:
    """The critique model behind an engine of its own."""
    engine = critic_engine(config.critic, context, config.engine)
    return judge_with(critic(engine, context.prompting(config.critic).bare(), seed=context.session.seed))
