"""Critiques in words from labelled steps: as demonstrations (traces), as pairs, and as tasks, for sft, dpo and ppo."""

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
from reasoner.registry import UserError
from reasoner.signals.critiques import critique_examples, critique_pairs, critique_tasks, to_criticise
from reasoner.stages.context import Context, make_engine
from reasoner.stages.references import ModelName, Names
from reasoner.store import read_records, write_records

TASKS = "tasks"


class Critiques(Config):
    """Write what a critique model is tuned on; sft takes it as `traces`, dpo as `labels`, ppo as `critiques`."""

    kind: Literal["critiques"]
    name: StageName = "critiques"
    model: ModelName = Field(description="model whose tokenizer writes them")
    labels: Annotated[str, Names("records", kind_key="label_kind")] = Field(
        default="label", description="stage whose step labels are put into words"
    )
    label_kind: str = Field(
        default="spread", description="which of them, by folder; first errors have to be known"
    )
    balance: bool = Field(
        default=True,
        description="as many solutions with an error as without, so that always saying the same is right about half; the "
        "surplus is left out",
    )


def run_critiques(config: Critiques, context: Context) -> None:
    prompting = context.prompting(config.model).bare()
    found = read_records(context.out / "records" / config.labels / config.label_kind, StepLabels)
    clean = context.clean(found, lambda r: (r.prompt, "\n".join(r.completions)))
    records, left_out = to_criticise(clean, config.balance)
    if not records:
        told = ", ".join(f"{n} {why}" for why, n in left_out.items())
        raise UserError(
            f"{config.labels} has no solutions to criticise in {config.label_kind}: left out are {told}; expected some with a "
            "first error and some without: label more trees, or set balance=false"
        )
    folder = context.out / "records" / config.name
    made = {
        "traces": write_records(
            folder / "traces", critique_examples(records, prompting.prompt_ids, prompting.completion_ids)
        ),
        "pairs": write_records(
            folder / "pairs",
            critique_pairs(records, prompting.prompt_ids, prompting.completion_ids, context.session.seed),
        ),
        TASKS: write_records(folder / TASKS, critique_tasks(records)),
    }
    context.session.log({f"critiques/{k}": n for k, n in (made | left_out).items()}, 0)


def critic_engine(
    model: str, context: Context, config: EngineConfig, room: int = 4096
) -> LocalEngine | RemoteEngine:
    """What draws for a critique model: with `room` tokens for solution and critique, or what its positions hold."""
    positions = num_positions(context.model(model))
    return make_engine(model, context, min(room, positions or room), 64, config)
