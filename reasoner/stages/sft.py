"""Supervised fine-tuning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reasoner.folder import StageName
from reasoner.records import SFTExample
from reasoner.registry import UserError
from reasoner.stages.context import Context, examples
from reasoner.stages.references import ModelName, Names, ShownSet, StageOf
from reasoner.store import read_records
from reasoner.trainers.sft import SFTStage, train_sft


class SFT(SFTStage):
    """Supervised fine-tuning on the worked solutions of problem sets, and on verified traces from trees."""

    kind: Literal["sft"]
    name: StageName = "sft"
    model: ModelName = Field(description="stage, folder or hub name to start from")
    problems: list[ShownSet] = Field(["demonstrations"], description="problem sets with solutions")
    traces: Annotated[str, Names("records", kind="traces")] | None = Field(
        None, description="label stage whose verified traces are imitated as well (rejection sampling)"
    )
    seconds_of: list[StageOf] = Field(
        [], description="train for as many seconds as these stages took together"
    )


def run_sft(config: SFT, context: Context) -> None:
    if config.seconds_of:
        seconds = context.session.ledger.seconds
        missing = [s for s in config.seconds_of if s not in seconds]
        if missing:
            raise UserError(
                f"seconds_of names {', '.join(missing)}, which did not run before; expected earlier stages"
            )
        config = config.model_copy(update={"max_seconds": sum(seconds[s] for s in config.seconds_of)})
    shown = examples(config.problems, context, context.prompting(config.model)) if config.problems else []
    if config.traces:
        folder = context.out / "records" / config.traces / "traces"
        if not folder.is_dir():
            raise UserError(
                f"{config.traces} made no verified traces; expected a label stage whose trees hold right chains"
            )
        shown += read_records(folder, SFTExample)
    train_sft(context.model(config.model), shown, config, context.session)
