"""Picks from metrics.jsonl what the report draws: curves over training steps, and calibration points."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from reasoner.metrics.reward_quality import CalibrationPoint
from reasoner.report.charts import Curve

# What is worth a chart, in this order. A key is drawn if it has all words of an entry.
DRAWN_WORDS = (
    ("accuracy",),
    ("reward",),
    ("loss",),
    ("kl",),
    ("k3",),
    ("entropy",),
    ("num", "steps"),
    ("length",),
    ("clip",),
    ("ess",),
    ("grad", "norm"),
)
MAX_PER_WORD = 2
MAX_PER_STAGE = 12
TRAINERS = (
    "sft",
    "dpo",
    "distill",
    "ppo",
    "prm",
    "orm",
    "pairwise",
)  # prefixes of their metrics, whatever the stage is called
STEP_KEYS = ("step", "global_step", "_step")


def number(x: Any) -> float:
    """x as a float; NaN for anything that is not a number (a metrics file may hold text and null)."""
    return float(x) if isinstance(x, int | float) and not isinstance(x, bool) else math.nan


def curves_by_stage(history: Sequence[Mapping[str, Any]]) -> dict[str, list[Curve]]:
    """The drawn curves of each stage, from dicts with a step and any numeric keys.

    The stage is the entry's "stage", or else the part of a key before its first "/". Entries without a step
    are numbered in their order; values that are not finite are left out.
    """
    series: dict[str, dict[str, Curve]] = {}
    for i, entry in enumerate(history):
        step = next((number(entry[key]) for key in STEP_KEYS if key in entry), float(i))
        for key, value in entry.items():
            if key in STEP_KEYS or not (math.isfinite(number(value)) and math.isfinite(step)):
                continue
            prefix, _, rest = key.partition("/")
            stage = str(entry["stage"]) if "stage" in entry else prefix if rest else ""
            name = rest if rest and prefix in (stage, *TRAINERS) else key
            curve = series.setdefault(stage, {}).setdefault(name, Curve(name, [], []))
            curve.steps.append(step)
            curve.values.append(number(value))
    chosen = {stage: _chosen(curves) for stage, curves in series.items()}
    return {stage: curves for stage, curves in chosen.items() if curves}


def _chosen(curves: Mapping[str, Curve]) -> list[Curve]:
    words_of = {name: set(re.split(r"[^a-z0-9]+", name.lower())) for name in curves}
    picked: dict[str, Curve] = {}
    for words in DRAWN_WORDS:
        names = [name for name in curves if words_of[name].issuperset(words) and name not in picked]
        # One point draws no line.
        long = [name for name in names if len(curves[name].values) > 1]
        picked.update((name, curves[name]) for name in long[:MAX_PER_WORD])
    return list(picked.values())[:MAX_PER_STAGE]


def calibrations(history: Sequence[Mapping[str, Any]]) -> dict[str, list[CalibrationPoint]]:
    """Reliability diagrams by name, from entries {"method": "prm", "calibration": [CalibrationPoint's fields by name, …]}.

    An entry's "when" or "stage", if it has one, joins the name. The last entry of a name is drawn.
    """
    found = {}
    for entry in history:
        if entry.get("calibration"):
            parts = (entry.get("method", "reward model"), entry.get("when") or entry.get("stage"))
            name = ", ".join(str(part) for part in parts if part)
            found[name] = [CalibrationPoint(**point) for point in entry["calibration"]]
    return found


def spikes(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was unusual in training and what was done, round by round, and of each stage how it went on after the last."""
    told: list[str] = []
    last: dict[str, float] = {}
    ends: dict[str, float] = {}
    for entry in history:
        stage, step = str(entry.get("stage", "")), number(entry.get("step"))
        if "ppo/grad_norm" in entry:
            ends[stage] = step
        if "ppo/spike" in entry:
            last[stage] = step
            ids = [str(i) for i in entry.get("ppo/left_out") or []]
            named = f": {', '.join(ids[:20])}{' …' if len(ids) > 20 else ''}" if ids else ""
            told.append(
                f"{stage}, round {step:g}: {entry['ppo/spike']}; {entry.get('ppo/spike_answer')}{named}"
            )
    for stage, step in last.items():
        after = ends.get(stage, step) - step
        told.append(
            f"{stage}: {after:g} rounds without a spike after the last one"
            if after
            else f"{stage}: it ended with a spike"
        )
    return told
