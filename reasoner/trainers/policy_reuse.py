"""What a round's updates are made on beside its own trees: those of earlier rounds, and its own once more.

Both end where the policy has moved too far from what sampled, by the effective sample size of its ratios.
"""

from __future__ import annotations

from collections.abc import Sequence

from accelerate import Accelerator

from reasoner.policy.packing import layers_cost
from reasoner.records import PolicySample
from reasoner.trainers.policy_batch import Batch, Models, blank, grouped, minibatch_of, prepare
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.trainers.policy_draw import Position, Round
from reasoner.trainers.policy_update import still_effective
from reasoner.trainers.ranks import summed
from reasoner.trainers.replay import chosen, effective, kept, young
from reasoner.tree import Tree

Numbered = Sequence[tuple[int, Tree]]  # trees of this process, by their numbers over all


def trees_again(
    drawn: Round, round: int, at: Position, models: Models, config: PolicyGradientStage, accelerator: Accelerator
) -> list[tuple[int, Tree]]:  # fmt: skip
    """This process's trees of earlier rounds that take the places of those left out; lets go of what is too old or too far."""
    if config.replay is None:
        return []
    (usable,) = summed([len(drawn.usable)], accelerator)
    left_out = set(at.spikes["left_out"])
    at.buffer = [k for k in young(at.buffer, round, config.replay) if k.tree.problem.id not in left_out]
    most = min(config.problems_per_round - int(usable), int(config.replay.share * config.problems_per_round))
    found = chosen(at.buffer, max(0, most))
    shares = effective(
        [k.tree for _, k in found], models.policy, config.temperature, config.tokens_per_batch, blank()
    )
    far = {k.key for (_, k), share in zip(found, shares, strict=True) if share < config.replay.min_effective}
    at.buffer = [k for k in at.buffer if k.key not in far]
    return [(i, k.tree) for i, k in found if k.key not in far]


def keep(samples: Sequence[PolicySample], round: int, at: Position, config: PolicyGradientStage) -> None:
    """Let the round's own samples be learned from in rounds to come."""
    if config.replay is not None:
        at.buffer += [k for k in (kept(s, round) for s in samples) if k is not None]


def minibatches(
    fresh: Numbered, again: Numbered, samples: Sequence[PolicySample], models: Models, config: PolicyGradientStage,
    accelerator: Accelerator,
) -> list[list[Batch]]:  # fmt: skip
    """The micro-batches of each update; `samples` are those of the fresh trees and then of the others."""
    at = [minibatch_of(i, config) for i, _ in fresh] + [i % config.minibatches for i, _ in again]
    numbered = list(zip(at, samples, strict=True))
    return [
        [
            prepare(group, models, config, accelerator.device, is_again)
            for is_again, of in ((False, numbered[: len(fresh)]), (True, numbered[len(fresh) :]))
            for group in grouped(
                [s for i, s in of if i == m], config, accelerator.device, layers_cost(models.policy)
            )
        ]
        for m in range(config.minibatches)
    ]


def is_used_up(
    prepared: Sequence[Sequence[Batch]], models: Models, config: PolicyGradientStage, accelerator: Accelerator
) -> bool:  # fmt: skip
    """Whether the policy has moved too far from what sampled the round for another pass over it."""
    least = config.min_effective
    return bool(least) and still_effective(prepared, models, config, accelerator) < least
