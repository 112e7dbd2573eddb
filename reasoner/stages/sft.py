"""Supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from reasoner.data.prompting import Prompting
from reasoner.folder import StageName
from reasoner.records import SFTExample
from reasoner.registry import UserError
from reasoner.signals.two_tasks import two_tasks
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
    prompting = context.prompting(config.model)
    shown = examples(config.problems, context, prompting) if config.problems else []
    if config.traces:
        folder = context.out / "records" / config.traces / "traces"
        if not folder.is_dir():
            raise UserError(
                f"{config.traces} made no verified traces; expected a label stage whose trees hold right chains"
            )
        shown += as_told(read_records(folder, SFTExample), prompting, context)
    if config.two_tasks is not None:
        shown = two_tasks(shown, config.two_tasks, prompting.prompt_ids, prompting.completion_ids)
    train_sft(context.model(config.model), shown, config, context.session)


def as_told(traces: Iterable[SFTExample], prompting: Prompting, context: Context) -> list[SFTExample]:
    """The traces in tokens of the model that imitates them: those of a teacher with another tokenizer by their texts.

    One with a wrong turn that is not learned has tokens for which no text stands: it is left out. Both are counted.
    """
    kept: list[SFTExample] = []
    told = dropped = 0
    for trace in traces:
        if prompting.decode(trace.completion_ids) == trace.completion:
            kept.append(trace)
        elif trace.mask:
            dropped += 1
        else:
            told += 1
            ids = {
                "prompt_ids": prompting.prompt_ids(trace.prompt),
                "completion_ids": prompting.completion_ids(trace.completion),
            }
            kept.append(replace(trace, **ids))
    if told or dropped:
        context.session.log({"sft/other_tokenizer": told, "sft/other_tokenizer_dropped": dropped}, 0)
    return kept
