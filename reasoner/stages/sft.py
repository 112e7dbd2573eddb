"""Supervised fine-tuning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from reasoner.data.mixing import Mixture, mixed
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
    mixture: Mixture | None = Field(
        None,
        description="show sets, and traces by their stage's name, in other shares than by size, e.g. {weights: {a: 3, b: 1}}",
    )

    @model_validator(mode="after")
    def _mixes_its_own(self) -> Self:
        if self.mixture is None:
            return self
        own = [*self.problems, *([self.traces] if self.traces else [])]
        for name in self.mixture.weights:
            if name not in own:
                raise ValueError(
                    f"mixture names {name!r}, which is neither among problems nor traces; expected one of: {', '.join(own)}"
                )
        others = ["mixture.at_end"] if self.mixture.at_end else []
        others += [n for n in ("max_seconds", "seconds_of") if getattr(self, n)]
        if others:
            raise ValueError(
                f"got mixture with {', '.join(others)}; expected a number of passes or updates, in one order: leave it out"
            )
        return self


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
    sets = _sets(config, context, prompting)
    shown = [example for of_set in sets.values() for example in of_set]
    if config.mixture is not None:
        shown = _mixed(sets, config, config.mixture, context)
        config = config.model_copy(update={"epochs": 1.0})
    if config.two_tasks is not None:
        shown = two_tasks(shown, config.two_tasks, prompting.prompt_ids, prompting.completion_ids)
    train_sft(context.model(config.model), shown, config, context.session)


def _sets(config: SFT, context: Context, prompting: Prompting) -> dict[str, list[SFTExample]]:
    """What there is to imitate, by problem set where they are mixed, and the traces by their stage."""
    names = [[name] for name in config.problems] if config.mixture is not None else [config.problems]
    sets = {of[0]: examples(of, context, prompting) for of in names if of}
    if config.traces:
        folder = context.out / "records" / config.traces / "traces"
        if not folder.is_dir():
            raise UserError(
                f"{config.traces} made no verified traces; expected a label stage whose trees hold right chains"
            )
        told = as_told(read_records(folder, SFTExample), prompting, context)
        sets[config.traces] = sets.get(config.traces, []) + told
    return sets


def _mixed(
    sets: dict[str, list[SFTExample]], config: SFT, mixture: Mixture, context: Context
) -> list[SFTExample]:
    """As many examples as the passes or updates take, in the mixture's shares; what was drawn of each set is told."""
    passes = round(config.epochs * sum(map(len, sets.values())))
    wanted = config.max_steps * config.batch_size if config.max_steps else passes
    drawn = mixed(sets, 1, wanted, mixture, f"{context.session.seed}")
    if config.max_steps and len(drawn) < wanted:
        raise UserError(
            f"the mixture has {len(drawn)} draws of {', '.join(sets)} with max_repeats={mixture.max_repeats}, and max_steps "
            f"takes {wanted}; expected enough: raise max_repeats, or lower max_steps"
        )
    context.session.log({"mixture": _table(drawn)}, 0)
    return [example for _, example in drawn]


def _table(drawn: list[tuple[str, SFTExample]]) -> list[dict[str, Any]]:
    """A row for each set: its share of all draws, draws, different examples, the most times one came, tokens to learn."""
    rows = []
    for name in sorted({name for name, _ in drawn}):
        own = [example for of, example in drawn if of == name]
        times = Counter(map(id, own))
        rows.append(
            {"set": name, "share": len(own) / len(drawn), "drawn": len(own), "distinct": len(times),
             "most_times": max(times.values()), "tokens": sum(len(e.completion_ids) for e in own)}
        )  # fmt: skip
    return rows


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
