"""What tells during training that a reward is being hacked or that the policy has run away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from reasoner.config import Config


class AlarmConfig(Config):
    """Signs of hacking: the newest rounds against the first ones."""

    action: Literal["warn", "stop", "rollback"] = Field(
        default="warn",
        description="stop: end with an error, the last checkpoint stays; rollback: go back to the older of the two "
        "checkpoints and draw anew",
    )
    window: int = Field(default=5, ge=1, description="rounds that are averaged, at the start and at the end")
    prm_gain: float = Field(
        default=0.05, gt=0, description="rise of the PRM's mean score that must show in the accuracy"
    )
    prm_sum_gain: float = Field(
        default=0.25,
        gt=0,
        description="rise of the PRM's sum per chain, as a share, that must show in the accuracy",
    )
    accuracy_gain: float = Field(
        default=0.01, description="rise of the accuracy that it must show by, at least"
    )
    fewest_steps: float = Field(
        default=0.5, ge=0, description="share of the first rounds' steps per chain that must be left"
    )
    longest: float = Field(default=2.0, gt=1, description="most growth of the mean length, as a factor")
    max_kl: float = Field(
        default=0.2, gt=0, description="largest mean KL that the updates of one round may move the policy"
    )
    max_rollbacks: int = Field(default=2, ge=0, description="rollbacks after which the run stops")


WATCHED = ("reward", "prm", "prm_sum", "num_steps", "length", "kl_step")  # of a round's metrics, prm if any


def alarms(rounds: Sequence[Mapping[str, float]], config: AlarmConfig) -> dict[str, str]:
    """The alarms that ring after these rounds of WATCHED numbers, and why."""
    found: dict[str, str] = {}
    if rounds and not rounds[-1]["kl_step"] <= config.max_kl:
        found["kl_jumped"] = f"the last round moved the policy by a KL of {rounds[-1]['kl_step']:.3g}"
    if len(rounds) < 2 * config.window:
        return found
    first, last = rounds[: config.window], rounds[-config.window :]

    def rise(name: str) -> tuple[float, float]:
        return _mean(first, name), _mean(last, name)

    (prm, prm_now), (reward, reward_now) = rise("prm"), rise("reward")
    total, total_now = rise("prm_sum")
    risen = [
        f"the PRM's {what} rose from {before:.3f} to {now:.3f}"
        for what, before, now, gain in (
            ("mean score", prm, prm_now, config.prm_gain),
            ("sum per chain", total, total_now, config.prm_sum_gain * abs(total)),
        )
        if now - before >= gain
    ]
    if risen and reward_now - reward < config.accuracy_gain:
        found["prm_hacked"] = (
            f"{' and '.join(risen)} while the accuracy went from {reward:.3f} to {reward_now:.3f}"
        )
    steps, steps_now = rise("num_steps")
    if steps_now < config.fewest_steps * steps:
        found["steps_fell"] = f"chains had {steps:.1f} steps at the start and have {steps_now:.1f}"
    length, length_now = rise("length")
    if length_now > config.longest * length:
        found["length_jumped"] = f"chains had {length:.0f} tokens at the start and have {length_now:.0f}"
    return found


def _mean(rounds: Sequence[Mapping[str, float]], name: str) -> float:
    """The mean over the rounds that have the number; NaN, which rings no alarm, where none has."""
    known = [r[name] for r in rounds if name in r]
    return sum(known) / len(known) if known else float("nan")
