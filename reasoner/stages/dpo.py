"""Direct preference optimisation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reasoner.folder import StageName
from reasoner.records import PreferencePair
from reasoner.stages.context import Context
from reasoner.stages.references import ModelName, Names
from reasoner.store import read_records
from reasoner.trainers.dpo import DPOStage, train_dpo


class DPO(DPOStage):
    """DPO or IPO on pairs from the trees: whole continuations by outcome, or single steps (Step-DPO)."""

    kind: Literal["dpo"]
    name: StageName = "dpo"
    model: ModelName = Field(description="stage, folder or hub name to start from")
    labels: Annotated[str, Names("records", kind_key="pairs")] = Field(
        "label", description="stage whose preference pairs are learned"
    )
    pairs: Literal["pairs", "step_pairs"] = Field(
        "pairs",
        description="pairs: continuations by outcome; step_pairs: steps at the first wrong one (Step-DPO)",
    )


def run_dpo(config: DPO, context: Context) -> None:
    folder = context.out / "records" / config.labels / config.pairs
    pairs = list(read_records(folder, PreferencePair)) if folder.is_dir() else []
    train_dpo(context.model(config.model), pairs, config, context.session)
