"""Rounds that are far from usual: what is compared, what is done about it, and which problems are left out from then on.

What is usual is the median of the calm rounds before, and how far numbers stray from it their median deviation: a spike
itself moves neither. All of it is plain numbers in the loop's position, so that a resumed run sees and does the same.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from accelerate import Accelerator
from pydantic import Field

from reasoner.config import Config
from reasoner.registry import UserError
from reasoner.trainers.checkpoint import Trained
from reasoner.trainers.ranks import from_everyone, summed

if TYPE_CHECKING:  # they have the config, which has SpikeConfig
    from reasoner.trainers.policy_draw import Position, Round

logger = logging.getLogger(__name__)
TO_DEVIATION = 1.4826  # of a normal distribution, from the median of the absolute deviations


class Usual(NamedTuple):
    """Which way a number spikes (1 up, -1 down, 0 both), and the least jump: a share of what is usual, and by itself."""

    way: int
    share: float
    least: float


WATCHED = {
    "loss": Usual(1, 1.0, 0.05),
    "grad_norm": Usual(1, 1.0, 1e-3),
    "kl_step": Usual(1, 2.0, 1e-3),
    "entropy": Usual(0, 0.5, 0.05),
    "length": Usual(0, 0.5, 2.0),
    "reward": Usual(-1, 0.5, 0.02),
}
OF_TREES = ("entropy", "length", "reward")  # known before anything is learned from them


class SpikeConfig(Config):
    """What to do about a round whose numbers are far from those of the rounds before."""

    on_spike: Literal["warn", "skip", "lower_rate", "go_back"] = Field(
        default="warn",
        description="skip: learn nothing from such trees, take no update of such a gradient; lower_rate: for the rest of "
        "the run; go_back: to the last checkpoint's weights, without the round's problems from then on",
    )
    window: int = Field(default=20, ge=4, description="calm rounds before that tell what is usual")
    after: int = Field(default=8, ge=4, description="calm rounds that have to be known first")
    deviations: float = Field(default=8.0, gt=0, description="how far from usual a spike is, at least")
    lower_by: float = Field(default=0.5, gt=0, lt=1, description="factor on the rates, for lower_rate")
    max_go_backs: int = Field(default=3, ge=0, description="times that a run may go back; then it stops")


def nothing_seen() -> dict[str, Any]:
    """What a loop's position knows at the start: numbers of rounds, ids of left-out problems, times it went back."""
    return {"seen": [], "left_out": [], "go_backs": 0}


def bounds(name: str, seen: Sequence[Mapping[str, float]], config: SpikeConfig) -> tuple[float, float, float]:
    """The least, the usual and the highest value that is no spike; without enough rounds -inf, NaN and inf."""
    known = [r[name] for r in seen[-config.window :] if math.isfinite(r.get(name, math.nan))]
    if len(known) < config.after:
        return -math.inf, math.nan, math.inf
    usual = median(known)
    deviation = TO_DEVIATION * median(abs(x - usual) for x in known)
    way, share, least = WATCHED[name]
    far = max(config.deviations * deviation, share * abs(usual), least)
    return (-math.inf if way > 0 else usual - far), usual, (math.inf if way < 0 else usual + far)


def spikes(
    numbers: Mapping[str, float], seen: Sequence[Mapping[str, float]], config: SpikeConfig
) -> dict[str, str]:
    """Which of a round's numbers are spikes beside the rounds in `seen`, and why; one that is no number is."""
    found = {}
    for name in WATCHED:
        low, usual, high = bounds(name, seen, config)
        if name in numbers and math.isfinite(usual) and not low <= numbers[name] <= high:
            found[name] = f"{name} {numbers[name]:.3g} where {usual:.3g} is usual"
    return found


def ceiling(at: Position, config: SpikeConfig) -> float:
    """The gradient norm beyond which an update is not taken."""
    return bounds("grad_norm", at.spikes["seen"], config)[2] if config.on_spike == "skip" else math.inf


def sift(drawn: Round, at: Position, config: SpikeConfig, accelerator: Accelerator) -> None:
    """Take out of a round what is not to be learned from: problems that are left out, and with `skip` all of a spike."""
    left_out = set(at.spikes["left_out"])
    drawn.usable = [(i, tree) for i, tree in drawn.usable if tree.problem.id not in left_out]
    at.buffer = [kept for kept in at.buffer if kept.tree.problem.id not in left_out]
    if config.on_spike == "skip" and len(at.spikes["seen"]) >= config.after:
        found = spikes(_of_trees(drawn, accelerator), at.spikes["seen"], config)
        if found:
            logger.warning("nothing is learned from this round: %s", "; ".join(found.values()))
            drawn.usable = []


def _of_trees(drawn: Round, accelerator: Accelerator) -> dict[str, float]:
    """OF_TREES of a round, over all processes (as policy_report's)."""
    lengths = [len(t.completion_ids(leaf)) for t in drawn.trees for leaf in t.leaves() if not t.given]
    entropy = [e for t in drawn.trees for n in t.nodes[1:] for e in n.entropy]
    judged = drawn.statuses.total() - drawn.statuses["error"]
    sums = [sum(entropy), len(entropy), sum(lengths), len(lengths), drawn.statuses["correct"], judged]
    above, below = (summed(sums, accelerator)[i::2] for i in (0, 1))
    return {name: x / max(1, n) for name, x, n in zip(OF_TREES, above, below, strict=True)}


def note(metrics: Mapping[str, float], at: Position, config: SpikeConfig) -> dict[str, str]:
    """The spikes among a round's metrics, which then count among those that tell what is usual.

    A spike does as the bound that it passed: alone it does not move the median, and a new level is usual after a while.
    """
    seen = at.spikes["seen"]
    if not metrics["grad_norm"]:  # no update: what it came to says nothing
        metrics = {name: metrics[name] for name in OF_TREES}
    found = spikes(metrics, seen, config)
    limits = {name: bounds(name, seen, config) for name in WATCHED}
    kept = {name: min(max(metrics[name], low), high) for name, (low, _, high) in limits.items()
            if math.isfinite(metrics.get(name, math.nan))}  # fmt: skip
    at.spikes["seen"] = [*seen, kept][-config.window :]
    return found


def leave_out(drawn: Round, num_problems: int, at: Position) -> list[str]:
    """Leave the round's problems out from now on, those of all processes; the new ones by id."""
    of_round = {problem.id for ids in from_everyone(drawn.problems) for problem in ids}
    new = sorted(of_round - set(at.spikes["left_out"]))
    at.spikes["left_out"] = [*at.spikes["left_out"], *new]
    if len(at.spikes["left_out"]) >= num_problems:
        raise UserError(
            f"spikes have left out all {num_problems} problems; expected some to go on with: take spikes.on_spike=lower_rate, "
            "or more problems"
        )
    return new


def lower_rates(trained: Trained, factor: float) -> None:
    """Multiply the learning rates from here to the end of the run; optimizers and schedules keep it in their states."""
    for optimizer, schedule in zip(trained.optimizers, trained.schedules, strict=False):
        schedule.base_lrs = [rate * factor for rate in schedule.base_lrs]
        for group in optimizer.param_groups:
            group["lr"] *= factor
