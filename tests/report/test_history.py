"""The report's choice of curves from metrics.jsonl dicts."""

import math

from reasoner.metrics.reward_quality import calibration_curve
from reasoner.report.history import calibrations, curves_by_stage


def test_curves_by_stage_key_and_by_prefix():
    history = [
        {"stage": "ppo", "step": i, "reward": i / 10, "seed": 3, "note": "x", "ok": True} for i in range(3)
    ]
    history += [{"step": i, "prm/loss": 1.0 - i / 10, "prm/lr": 0.1} for i in range(2)]
    curves = curves_by_stage(history)
    assert set(curves) == {"ppo", "prm"}
    assert [(c.name, c.steps, c.values) for c in curves["ppo"]] == [("reward", [0, 1, 2], [0.0, 0.1, 0.2])]
    assert [c.name for c in curves["prm"]] == ["loss"]


def test_curves_skip_what_is_not_finite_and_lone_points():
    history = [{"loss": math.nan}, {"loss": 1.0}, {"loss": None}, {"loss": "0.5"}, {"loss": 0.5}, {"kl": 0.1}]
    (curve,) = curves_by_stage(history)[""]
    assert (curve.name, curve.steps, curve.values) == ("loss", [1.0, 4.0], [1.0, 0.5])


def test_curves_are_limited_and_ordered():
    keys = ["reward/mean", "reward/std", "reward/max", "num_steps", "global_step", "accuracy", "closest"]
    history = [{"stage": "rl", **dict.fromkeys(keys, float(i))} for i in range(4)]
    names = [curve.name for curve in curves_by_stage(history)["rl"]]
    assert names == ["accuracy", "reward/mean", "reward/std", "num_steps"]


def test_calibrations_round_trip_through_plain_lists():
    points = calibration_curve([0.1, 0.9, 0.8, 0.2], [0, 1, 1, 0], num_bins=2)
    history = [{"method": "prm", "when": "sft", "calibration": [p._asdict() for p in points]}, {"step": 1}]
    assert calibrations(history) == {"prm, sft": points}


def test_metrics_of_a_renamed_stage_have_short_names():
    entries = [
        {"stage": "second", "step": i, "ppo/reward": i, "contamination/exact_loss": i} for i in range(3)
    ]
    assert [c.name for c in curves_by_stage(entries)["second"]] == ["reward", "contamination/exact_loss"]
