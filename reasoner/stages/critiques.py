"""Critiques in words from labelled steps, as demonstrations (traces) and as pairs, for the sft and dpo stages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reasoner.config import Config
from reasoner.engine.connect import EngineConfig
from reasoner.engine.local import LocalEngine
from reasoner.engine.remote import RemoteEngine
from reasoner.folder import StageName
from reasoner.policy.models import num_positions
from reasoner.records import StepLabels
from reasoner.signals.critiques import critique_examples, critique_pairs
from reasoner.stages.context import Context, make_engine
from reasoner.stages.references import ModelName, Names
from reasoner.store import read_records, write_records


class Critiques(Config):
    """Write what a critique model is tuned on; sft takes it as `traces`, dpo as `labels`."""

    kind: Literal["critiques"]
    name: StageName = "critiques"
    model: ModelName = Field(description="model whose tokenizer writes them")
    labels: Annotated[str, Names("records", kind_key="label_kind")] = Field(
        default="label", description="stage whose step labels are put into words"
    )
    label_kind: str = Field(
        default="spread", description="which of them, by folder; first errors have to be known"
    )


def run_critiques(config: Critiques, context: Context) -> None:
    prompting = context.prompting(config.model)
    records = list(read_records(context.out / "records" / config.labels / config.label_kind, StepLabels))
    folder = context.out / "records" / config.name
    made = {
        "traces": write_records(
            folder / "traces", critique_examples(records, prompting.encode, prompting.completion_ids)
        ),
        "pairs": write_records(
            folder / "pairs",
            critique_pairs(records, prompting.encode, prompting.completion_ids, context.session.seed),
        ),
    }
    context.session.log({f"critiques/{k}": n for k, n in made.items()}, 0)


def critic_engine(
    model: str, context: Context, config: EngineConfig, room: int = 4096
) -> LocalEngine | RemoteEngine:
    """What draws for a critique model: with `room` tokens for solution and critique, or what its positions hold."""
    positions = num_positions(context.model(model))
    return make_engine(model, context, min(room, positions or room), 64, config)
