"""Train process and outcome reward models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from accelerate import PartialState
from pydantic import Field

from reasoner.config import Entry
from reasoner.folder import StageName
from reasoner.policy.labelled import Labelled, all_tokens, from_outcomes, from_steps
from reasoner.records import OutcomeLabel, PreferencePair, StepLabels
from reasoner.scoring.aggregate import LABELS_FILE
from reasoner.signals.step_labels import with_neutral
from reasoner.stages.context import Context
from reasoner.stages.references import ModelName, Names
from reasoner.store import read_records, write_json
from reasoner.trainers.pairwise import PairwiseStage, train_pairwise
from reasoner.trainers.reward_model import RewardModelStage, train_reward_model


class PRM(RewardModelStage):
    """Train a process reward model on step labels."""

    kind: Literal["prm"]
    name: StageName = "prm"
    model: ModelName = Field(description="stage, folder or hub name to start from")
    labels: Annotated[str, Names("records", kind_key="label_kind")] = Field(
        "label", description="stage whose step labels are learned"
    )
    label_kind: str = Field(
        "soft",
        description="which of them, by folder: hard | soft | posterior | spread | soft_agreed | human | …",
    )
    end_weight: float = Field(
        1.0,
        ge=0,
        description="what the label of a solution's last step, its verdict, counts where others count 1",
    )
    neutral: Annotated[str, Entry("choice for neutral labels", "reasoner.signals.step_labels:NEUTRAL")] = (
        Field(
            "good",
            description="what a person's neutral rating counts as: good | half | bad | drop (no label)",
        )
    )


def run_prm(config: PRM, context: Context) -> None:
    records = list(read_records(context.out / "records" / config.labels / config.label_kind, StepLabels))
    data = from_steps(with_neutral(records, config.neutral), config.tokens_per_batch, config.end_weight)
    train_reward_model(context.model(config.model), data, config, context.session, "prm")
    if PartialState().is_main_process:
        write_json(context.session.out / "model" / LABELS_FILE, {"kind": records[0].kind})


EXPANSIONS: dict[str, Callable[[Labelled], Labelled]] = {"last": lambda labelled: labelled, "all": all_tokens}


class ORM(RewardModelStage):
    """Train an outcome reward model on verdicts."""

    kind: Literal["orm"]
    name: StageName = "orm"
    model: ModelName = Field(description="stage, folder or hub name to start from")
    labels: Annotated[str, Names("records", kind="outcome")] = Field(
        "label", description="stage whose outcome labels are learned"
    )
    positions: Literal["last", "all"] = Field(
        default="last",
        description="where the verdict is learned: at the last token or at every one; it is read at the last. "
        "Pairs of right and wrong solutions: loss=ranking",
    )


def run_orm(config: ORM, context: Context) -> None:
    records = read_records(context.out / "records" / config.labels / "outcome", OutcomeLabel)
    data = from_outcomes(records, config.tokens_per_batch)
    expand = EXPANSIONS[config.positions]
    train_reward_model(context.model(config.model), data, config, context.session, "orm", expand)


class PairwiseORM(PairwiseStage):
    """Train an outcome reward model on preference pairs (Bradley-Terry), by TRL."""

    kind: Literal["pairwise"]
    name: StageName = "pairwise"
    model: ModelName = Field(description="stage, folder or hub name to start from")
    labels: Annotated[str, Names("records", kind="pairs")] = Field(
        "label", description="stage whose preference pairs are learned, also of an import"
    )


def run_pairwise(config: PairwiseORM, context: Context) -> None:
    folder = context.out / "records" / config.labels / "pairs"
    pairs = list(read_records(folder, PreferencePair)) if folder.is_dir() else []
    train_pairwise(context.model(config.model), pairs, config, context.session, "pairwise")
