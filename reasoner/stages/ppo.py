"""On-policy training."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from reasoner.data.mixing import Mixture, check_names, mixed
from reasoner.data.sources import Item
from reasoner.folder import StageName
from reasoner.records import CritiqueTask
from reasoner.registry import UserError
from reasoner.signals.critiques import as_problem
from reasoner.stages.context import Context, examples, shuffled, turned
from reasoner.stages.critiques import TASKS
from reasoner.stages.references import ModelName, Names, ProblemSet, RewardModelName, ShownSet
from reasoner.store import read_records
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.policy_gradient import train_policy
from reasoner.tree import Problem

MOST_DRAWS = 100_000  # that are planned ahead where nobody knows how many there will be


class PPO(PolicyGradientStage):
    """Step-level PPO (or another on-policy method) on fresh trees."""

    kind: Literal["ppo"]
    name: StageName = "ppo"
    model: ModelName = Field(description="stage, folder or hub name to start from")
    problems: list[ProblemSet] = Field(["train"], description="problem sets")
    critiques: Annotated[str, Names("records", kind=TASKS)] | None = Field(
        None,
        description="critiques stage whose solutions are criticised in place of problems; right is who finds the first error",
    )
    critic: RewardModelName | None = Field(
        None, description="stage whose reward model the critic starts from"
    )
    prm: RewardModelName | None = Field(None, description="stage of the PRM that enters the reward")
    orm: RewardModelName | None = Field(None, description="stage of the ORM that enters the reward")
    of_round: int = Field(
        0, ge=0, description="number of the round of a `repeat`: each begins with the problems behind the last one's"
    )  # fmt: skip
    demonstrations: list[ShownSet] = Field([], description="problem sets imitated beside, with ptx_weight")

    @model_validator(mode="after")
    def _criticises_alone(self) -> Self:
        """A critique's prompt is whole, and those of problems have a template."""
        others = [n for n in ("problems", "demonstrations", "mixture") if getattr(self, n)]
        if self.critiques and others:
            raise ValueError(
                f"got critiques with {', '.join(others)}; expected solutions to criticise or problems to solve, a stage for "
                "each: set problems=[], and leave the others out"
            )
        return self

    @model_validator(mode="after")
    def _mixes_its_own(self) -> Self:
        if self.mixture is not None:
            check_names(self.mixture, self.problems)
        return self


def run_ppo(config: PPO, context: Context) -> None:
    prompting = context.prompting(config.model)
    begins_inside = config.starts is not None and config.starts.demonstrations
    reader = "ptx_weight" if config.ptx_weight else "starts.demonstrations" if begins_inside else ""
    shown = examples(config.demonstrations, context, prompting) if reader and config.demonstrations else []
    if reader and not shown:
        raise UserError(
            f"{reader} is set but demonstrations names no problem set with solutions; expected one, or {reader} left out"
        )
    sets = None
    if config.mixture is not None:
        items = context.items(config.problems)
        drawn = _mixed(config, config.mixture, context.by_set(config.problems, items), context)
        problems, sets = [problem for _, problem in drawn], {problem.id: name for name, problem in drawn}
    elif config.critiques:
        prompting = prompting.bare()
        problems = _in_turn(config, _to_criticise(config.critiques, context), context)
        sets = {problem.id: problem.domain for problem in problems}
    else:
        problems = _in_turn(config, context.items(config.problems), context)
    train_policy(
        context.model(config.model), prompting, problems, config,
        context.session, config.critic and context.model(config.critic), config.prm and context.model(config.prm), shown,
        config.orm and context.model(config.orm), sets,
    )  # fmt: skip


def _in_turn(config: PPO, items: list[Item], context: Context) -> list[Problem]:
    begun = config.of_round * config.rounds * config.problems_per_round
    return turned(shuffled(items, context.session.seed), begun)


def _to_criticise(stage: str, context: Context) -> list[Item]:
    """The solutions that a stage `critiques` gives to criticise; the critiques themselves are nobody's to imitate here."""
    tasks = read_records(context.out / "records" / stage / TASKS, CritiqueTask)
    return [Item(as_problem(task), None) for task in tasks]


def _mixed(
    config: PPO, mixture: Mixture, sets: dict[str, list[Item]], context: Context
) -> list[tuple[str, Problem]]:
    """(set, problem) of each draw in turn; a set that runs dry is told, all of them before the end are a UserError."""
    size = config.problems_per_round
    # by tokens, or with draws that replace others, the order begins anew where it ends
    rounds = min(config.rounds, -(-MOST_DRAWS // size)) if config.generated_tokens else config.rounds
    problems = {name: [item.problem for item in items] for name, items in sets.items()}
    found = mixed(problems, rounds, size, mixture, f"{context.session.seed} {config.of_round}")
    times = Counter(name for name, _ in found)
    if mixture.max_repeats is not None and len(found) < rounds * size:
        raise UserError(
            f"the mixture has {len(found)} draws of {', '.join(sets)} with max_repeats={mixture.max_repeats}, and the stage "
            f"takes {rounds * size}; expected enough: raise max_repeats, give more sets a weight, or lower rounds"
        )
    dry = [
        n
        for n, of_set in problems.items()
        if times[n] and times[n] == len(of_set) * (mixture.max_repeats or 0)
    ]
    if dry:
        context.session.log({"mixture/ran_dry": dry}, 0)
    return found
