"""Direct preference optimisation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reasoner.records import PreferencePair
from reasoner.stages.context import Context
from reasoner.store import read_records
from reasoner.trainers.dpo import DPOStage, train_dpo


class DPO(DPOStage):
    """DPO on sibling pairs from the trees."""

    kind: Literal["dpo"]
    name: str = "dpo"
    model: str = Field(description="stage, folder or hub name to start from")
    labels: str = Field("label", description="stage whose preference pairs are learned")


def run_dpo(config: DPO, context: Context) -> None:
    pairs = list(read_records(context.out / "records" / config.labels / "pairs", PreferencePair))
    train_dpo(context.model(config.model), pairs, config, context.session)
