"""Grow trees with a policy, and judge them while they grow."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from reasoner.config import Config, Entry, MayChange
from reasoner.data.mixing import Mixture, by_rounds, check_names
from reasoner.data.prompting import Prompting
from reasoner.data.spool import Spool
from reasoner.engine.connect import EngineConfig
from reasoner.engine.protocol import Sampling
from reasoner.folder import StageName
from reasoner.parts import trees_per_part
from reasoner.policy.heads import ScoreNet
from reasoner.registry import UserError
from reasoner.scoring.judging import Judging, Settled
from reasoner.scoring.outcome import core_seconds, judge
from reasoner.scoring.prm import score_steps
from reasoner.scoring.published import PublishedPRM
from reasoner.scoring.reward_models import load_orm, load_reward_model
from reasoner.search.branch import BranchConfig
from reasoner.search.budgets import BudgetConfig, within
from reasoner.search.dead_ends import dead_end_by
from reasoner.search.grow import Growth, StepStop
from reasoner.search.mcts import outcome_or_score
from reasoner.search.policies import TreeConfig, policy_of
from reasoner.search.prune import PruneConfig, pruned
from reasoner.signals.backup import pruning_report
from reasoner.stages.context import Context, make_engine, random_order, turned
from reasoner.stages.references import ModelName, ProblemSet, RewardModelName
from reasoner.stages.share import (
    AHEAD,
    Own,
    Share,
    grow_and_judge,
    trees_of_parts,
    verdict_costs,
    verdict_counts,
)
from reasoner.store import put_trees
from reasoner.trainers.ranks import from_everyone
from reasoner.trainers.seen import numbers_of, row
from reasoner.tree import Tree

OF_SET = "mixture/"  # before a set's name and what is counted of it, among the counts of a part
NUMBERS = ("drawn", "tokens", "right", "judged")


class Rollout(Config):
    """Grow trees of chains of thought; each chain is judged as soon as it ends, while others are decoded."""

    kind: Literal["rollout"]
    name: StageName = "rollout"
    model: ModelName = Field(description="stage, folder or hub name of the policy")
    problems: list[ProblemSet] = Field(["train"], description="problem sets")
    num_problems: int = Field(1000, ge=1, description="most problems to roll out")
    of_round: int = Field(
        0, ge=0, description="number of the round of a `repeat`, kept with the trees; each takes problems behind the last one's"
    )  # fmt: skip
    of_rounds: int = Field(
        1, ge=1, description="rounds of that `repeat` in all, over which the shares of a mixture move"
    )
    mixture: Mixture | None = Field(
        None,
        description="draw from the problem sets in other shares than by their sizes, e.g. {weights: {a: 3, b: 1}}, no problem "
        "twice; max_repeats and at_end count over the rounds of a `repeat`",
    )
    tree: TreeConfig = Field(
        BranchConfig(where="spread_steps", num_points=3, num_children=4),
        description="how trees branch: policy branch | kary | mcts | bisect, each with its own keys",
    )
    budget: BudgetConfig = BudgetConfig()
    prune: PruneConfig = PruneConfig()
    verify: bool = Field(
        False,
        description="judge trajectories as they come: needed by bisect, mcts with rollouts, the rules unlikely and solved",
    )
    prm: RewardModelName | None = Field(
        None, description="stage of the PRM that leads branching, search or pruning"
    )
    orm: RewardModelName | None = Field(
        None, description="stage of the ORM that pruning may read, at every step end"
    )
    dead_end: Annotated[str, Entry("verifier of unfinished chains", "reasoner.search.dead_ends:DEAD_ENDS")] = Field(
        "steps", description="what the rule dead_end asks: steps (a wrong calculation), proof (a step fails), or module:function"
    )  # fmt: skip
    max_tokens: int = Field(256, ge=1, description="longest completion")
    temperature: float = Field(1.0, gt=0, description="sampling temperature")
    num_slots: Annotated[int, MayChange()] = Field(256, ge=1, description="sequences decoded at once")
    engine: Annotated[EngineConfig, MayChange()] = EngineConfig()

    @model_validator(mode="after")
    def _mixes_its_own(self) -> Self:
        if self.mixture is not None:
            check_names(self.mixture, self.problems)
        return self


def run_rollout(config: Rollout, context: Context) -> None:
    share, longest = _shared_out(config, context)
    waited = share.work(grow_parts, config, context, longest)
    total = share.conclude()
    lost, known = total.pop("lost"), total.pop("known")
    if config.mixture is not None:
        context.session.log({"mixture": _table(total)}, 0)
    found = {"rollout/verdict_wait": max(waited, default=0.0)}
    context.session.log({**total, **found, "rollout/pruning_error": lost / known if known else math.nan}, 0)


def _shared_out(config: Rollout, context: Context) -> tuple[Share, int]:
    """This process's share of the parts, and the tokens of the longest chain with its prompt, of all processes."""
    prompting = context.prompting(config.model)
    problems, size = _problems(config, context)
    share = Share(context.session, config.name, -(-len(problems) // size))
    of_parts = (problems.read(number * size, (number + 1) * size) for number in share.numbers)
    prompts = (len(prompting.prompt_ids(problem.prompt)) for part in of_parts for problem in part)
    return share, max(from_everyone(max(prompts, default=1))) + config.max_tokens


def _problems(config: Rollout, context: Context) -> tuple[Spool, int]:
    """The problems, and how many of them make a part."""
    # another order than on-policy training has, so that reward models also learn problems which it meets late
    seed = context.session.seed + 1

    def in_turn(_: Context, numbers: Mapping[str, Sequence[int]]) -> list[tuple[str, int]]:
        begun = config.of_round * config.num_problems
        return [("", n) for n in turned(random_order(len(numbers[""]), seed).tolist(), begun)][
            : config.num_problems
        ]

    def by_mixture(noting: Context, numbers: Mapping[str, Sequence[int]]) -> list[tuple[str, int]]:
        assert config.mixture is not None
        return _mixed(config, config.mixture, numbers, f"{seed}", noting)

    is_mixed = config.mixture is not None
    problems = context.spooled(config.problems, by_mixture if is_mixed else in_turn, apart=is_mixed)
    return problems, trees_per_part(len(problems))


def _mixed(
    config: Rollout, mixture: Mixture, numbers: Mapping[str, Sequence[int]], place: str, context: Context
) -> list[tuple[str, int]]:
    """This round's draws; a set that runs dry in it is told, all of them before the end of any round are a UserError."""
    rounds = max(config.of_rounds, config.of_round)
    drawn = by_rounds(numbers, rounds, config.num_problems, mixture, place, once=True)
    for number, of_round in enumerate(drawn, start=1):
        if len(of_round) < config.num_problems:
            where = f" in round {number} of {rounds}" if rounds > 1 else ""
            raise UserError(
                f"the mixture has {len(of_round)} draws of {', '.join(numbers)}{where} with max_repeats={mixture.max_repeats} "
                f"and no problem twice in a rollout, and num_problems takes {config.num_problems}; expected enough: give more "
                "sets a weight, lower num_problems, or raise max_repeats where rounds have used them up"
            )
    at = max(0, config.of_round - 1)
    now = Counter(name for name, _ in drawn[at])
    so_far = Counter(name for of_round in drawn[: at + 1] for name, _ in of_round)
    most = mixture.max_repeats
    dry = [
        name
        for name, of_set in numbers.items()
        if now[name] and (now[name] == len(of_set) or (most and so_far[name] == most * len(of_set)))
    ]
    if dry:
        context.session.log({"mixture/ran_dry": dry}, 0)
    return drawn[at]


def _table(total: Counter[str]) -> list[dict[str, Any]]:
    """A row for each set of what was really drawn, whose numbers are taken out of the sums."""
    sums = {name: total.pop(name) for name in list(total) if name.startswith(OF_SET)}
    sets = sorted({name.removeprefix(OF_SET).partition(" ")[2] for name in sums})
    num = sum(sums[f"{OF_SET}drawn {name}"] for name in sets)
    rows = []
    for name in sets:
        drawn, tokens, right, judged = (sums[f"{OF_SET}{of} {name}"] for of in NUMBERS)
        rows.append(row(name, num, drawn, drawn, 1, tokens, right, judged))
    return rows


def grow_parts(config: Rollout, context: Context, own: Own, longest: int) -> float:
    """Grow and judge the trees of one process's own parts; the share of its time in which only verdicts were missing."""
    prompting, session = context.prompting(config.model), context.session
    problems, size = _problems(config, context)

    def grown_parts() -> Iterator[tuple[int, list[Tree]]]:
        for number in own.numbers:
            of_part = problems.read(number * size, (number + 1) * size)
            yield number, [Tree.of_prompt(p, prompting.prompt_ids(p.prompt)) for p in of_part]

    growth = Growth(
        prompting.mark_steps,
        config.max_tokens,
        Sampling(config.temperature),
        session.seed,
        config.of_round,
        step_stop=StepStop(prompting.step_stop_ids, prompting.step_stop_tokens, prompting.is_step_end),
    )
    value = outcome_or_score("prm" if config.prm else "orm" if config.orm else None)
    policy = within(policy_of(config.tree, value, growth), config.budget)
    policy = pruned(
        policy, config.prune, session.seed, is_dead_end=dead_end_by(config.dead_end, prompting.decode)
    )
    engine = make_engine(config.model, context, longest, config.num_slots, config.engine)
    if config.of_round:
        engine.load_weights(config.of_round)
    num_own = min(own.num * size, len(problems))

    def finish(number: int, trees: list[Tree], settled: list[Settled]) -> None:
        counts, notes = verdict_counts(settled, "rollout")
        if config.verify:  # these are counted where they are asked for
            session.ledger.add("verifier", verifier_seconds=core_seconds(trees))
        else:
            session.ledger.add("verifier", **verdict_costs(settled), seconds_waiting=judging.waited())
        session.ledger.add("policy", trajectories_generated=sum(len(t.leaves()) for t in trees))
        put_trees(context.out / "trees" / config.name, number, trees)
        sets = problems.sets(number * size, (number + 1) * size)
        own.done(number, {**counts, **_counted(trees), **_of_sets(trees, sets)}, notes)

    trees, on_done = trees_of_parts(grown_parts(), finish)
    judging = Judging(prompting.decode)
    begun = time.monotonic()
    grow_and_judge(
        trees, on_done, judging, engine, policy, growth, AHEAD * config.num_slots,
        observe=_observer(config, context, prompting), on_progress=lambda done: session.progress(done, num_own, ""),
    )  # fmt: skip
    return judging.waited_s / max(1e-9, time.monotonic() - begun)


def _of_sets(trees: list[Tree], sets: list[str]) -> Counter[str]:
    """What the trees add to the numbers of their sets."""
    counts = Counter[str]()
    for tree, name in zip(trees, sets, strict=True):
        if name:
            counts.update(
                {f"{OF_SET}{of} {name}": n for of, n in zip(NUMBERS, numbers_of(tree), strict=True)}
            )
    return counts


def _counted(trees: list[Tree]) -> dict[str, float]:
    report = pruning_report(trees)
    return {
        "rollout/trajectories": sum(len(t.leaves()) for t in trees),
        "rollout/tokens": sum(t.num_sampled for t in trees),
        "rollout/continuations_planned": report.planned,
        **{f"rollout/dropped_{rule}": n for rule, n in report.dropped.items()},
        "rollout/pruned_but_continued": report.continued,
        "lost": report.lost,
        "known": report.known,
    }


def _observer(config: Rollout, context: Context, prompting: Prompting) -> Callable[[Sequence[Tree]], None]:
    """Verdicts and scores on what has just come back."""
    nets: dict[str, ScoreNet | PublishedPRM] = {}
    if config.prm:
        nets["prm"] = load_reward_model(context.model(config.prm), prompting.decode)
    if config.orm:
        nets["orm"] = load_orm(context.model(config.orm))
    ledger = context.session.ledger

    def observe(trees: Sequence[Tree]) -> None:
        if config.verify:
            ledger.add("verifier", verifications=judge(trees, prompting.decode).total())
        for name, net in nets.items():
            for tree in trees:
                tree.scores.pop(name, None)
            ledger.add(name, scored=score_steps(net, trees, name))

    return observe
