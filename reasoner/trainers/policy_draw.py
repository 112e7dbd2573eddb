"""What a round of on-policy training draws, and where the loop is: problems in turn, judged trees by place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from accelerate import Accelerator

from reasoner.data.prompting import Prompting
from reasoner.engine.protocol import Engine, Sampling
from reasoner.records import SFTExample
from reasoner.scoring.outcome import Judged, judge_while
from reasoner.search.branch import tree_of
from reasoner.search.grow import Growth, StepStop, grow
from reasoner.trainers.policy_batch import is_usable
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.ranks import summed
from reasoner.trainers.spikes import nothing_seen
from reasoner.tree import Problem, Tree


@dataclass
class Position:
    """Where the loop is, on one process: what a checkpoint holds beside weights, optimizers and schedules."""

    cursor: int = 0  # problems drawn so far, over all processes
    own_chains: list[SFTExample] = field(default_factory=list)
    watched: list[dict[str, float]] = field(default_factory=list)  # what the alarms look at
    generated: int = 0  # tokens sampled so far, over all processes
    barren: int = 0  # rounds in a row without a usable update
    rollbacks: int = 0
    spikes: dict[str, Any] = field(default_factory=nothing_seen)

    def go_to(self, other: Position) -> None:
        """Be where another is: whoever holds this one follows."""
        vars(self).update(vars(other))


@dataclass
class Round:
    """What a round has drawn on this process; `usable` are (number within the round, tree)."""

    problems: list[Problem] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)
    usable: list[tuple[int, Tree]] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)

    @property
    def statuses(self) -> Counter[str]:
        return sum((judged.statuses for judged in self.judged), Counter())


def position_of(loop: dict[str, Any]) -> Position:
    """The position that a checkpoint's `loop` holds."""
    own_chains = [SFTExample(**e) for e in loop["own_chains"]]
    return Position(
        loop["cursor"], own_chains, loop["watched"], loop["generated"], loop["barren"], loop["rollbacks"],
        loop["spikes"],
    )  # fmt: skip


def draw(
    problems: Sequence[Problem],
    at: Position,
    round: int,
    engine: Engine,
    prompting: Prompting,
    config: PolicyGradientStage,
    seed: int,
    accelerator: Accelerator,
) -> Round:
    """Judged trees of the next problems, this process's share; moves the cursor and counts the tokens.

    With `max_resamples`, further problems replace those whose trees are of no use.
    """
    found = Round()
    number = 0
    occurred: Counter[str] = Counter()
    for _ in range(1 + config.max_resamples):
        (usable,) = summed([len(found.usable)], accelerator)
        missing = config.problems_per_round - int(usable)
        if missing <= 0:
            break
        numbers = [
            i for i in range(number, number + missing)
            if i % accelerator.num_processes == accelerator.process_index
        ]  # fmt: skip
        of_all = [problems[(at.cursor + i) % len(problems)] for i in range(missing)]
        times = []  # each of them had been drawn in this round, by whichever process
        for problem in of_all:
            times.append(occurred[problem.id])
            occurred[problem.id] += 1
        chosen = [of_all[i - number] for i in numbers]
        trees, judged = rollout(
            chosen, engine, prompting, config, seed, round, [times[i - number] for i in numbers]
        )
        found.judged.append(judged)
        found.problems += chosen
        found.trees += trees
        found.usable += [(i, t) for i, t in zip(numbers, trees, strict=True) if is_usable(t, config)]
        (generated,) = summed([sum(t.num_sampled for t in trees)], accelerator)
        at.generated += int(generated)
        at.cursor += missing
        number += missing
    return found


def rollout(
    problems: Sequence[Problem],
    engine: Engine,
    prompting: Prompting,
    config: PolicyGradientStage,
    seed: int,
    round: int,
    occurrences: Sequence[int],
) -> tuple[list[Tree], Judged]:
    """One judged tree per problem, by place: the same whatever else is in the batch or on another process.

    `occurrences` tells apart the trees of a problem that comes more than once in the round.
    """
    trees = [
        Tree.of_prompt(p, prompting.prompt_ids(p.prompt), times)
        for p, times in zip(problems, occurrences, strict=True)
    ]
    growth = Growth(
        prompting.mark_steps, config.max_tokens, Sampling(config.temperature), seed, round,
        step_stop=StepStop(prompting.step_stop_ids, prompting.step_stop_tokens, prompting.is_step_end),
    )  # fmt: skip
    policy = tree_of(config.tree, growth)
    judged = judge_while(
        lambda on_node: grow(trees, engine, policy, growth, on_node=on_node), trees, prompting.decode
    )
    return trees, judged
