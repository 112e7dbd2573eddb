"""Three rounds of trees, labels, reward models and policy, as they are and with less: python -m tests.benchmarks.rounds

Runs configs/rounds.yaml and variants of it after `reasoner demo`, into runs/rounds_VARIANT, and shows each by round:
accuracy on the development and the test set with 95 % intervals, tokens, and how good the Monte-Carlo step labels are
against the exact truth of each written step (reasoner/data/working.py), up to a chain's first wrong step.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from reasoner.config import validate
from reasoner.data.varied_arithmetic import UNKNOWN
from reasoner.pipeline import RunConfig
from reasoner.pipeline import run as run_stages
from reasoner.records import StepLabels
from reasoner.signals.consensus import working
from reasoner.signals.step_labels import NO_ERROR
from reasoner.store import read_records

CONFIG = Path(__file__).parents[2] / "configs" / "rounds.yaml"
FEW = 600  # problems of each set, which every round then meets again
MADE = 11_400  # new ones of each set, as many as make up for the problems that are left away
WAYS = {"numbers": 1, "longer": 1, "combined": 1, "turned": 1}


def labelled_once(raw: dict) -> dict:
    """Trees, labels and reward models of the first policy alone; the rounds train the policy with these."""
    repeat, last = raw["stages"]
    at_first = [s for s in repeat["stages"] if s["kind"] not in ("ppo", "keep")]
    for stage in at_first:
        stage |= {"model": repeat["first"]["keep"]} | ({"of_rounds": None} if "of_rounds" in stage else {})
    repeat["stages"] = [s for s in repeat["stages"] if s["kind"] in ("ppo", "keep")]
    raw["stages"] = [*at_first, repeat, last]
    return raw


def few_problems(raw: dict) -> dict:
    for source in raw["problems"]["train"]:
        source["size"] = FEW
    return raw


def from_old(raw: dict, ways: dict[str, int] = WAYS) -> dict:
    """The few problems, and new ones made from these, so that each round meets others."""
    old = few_problems(raw)["problems"]["train"]
    new = [
        {"name": "varied_arithmetic", "of": FEW, "size": MADE, "ways": ways, **{k: source[k] for k in ("start", "families")}}
        for source in old
    ]  # fmt: skip
    raw["problems"]["train"] = [*old, *new]
    return raw


VARIANTS: dict[str, Callable[[dict], dict]] = {
    "whole": lambda raw: raw,
    "labelled_once": labelled_once,
    "few_problems": few_problems,
    "from_old": from_old,
    "other_numbers": lambda raw: from_old(raw, {"numbers": 1}),
}


def config_of(variant: str, start: str, out: Path, seed: int) -> dict:
    """The variant from another model than the demo's, into `out`."""
    text = CONFIG.read_text(encoding="utf-8").replace("runs/demo/models/sft/model", start)
    return VARIANTS[variant](deepcopy(yaml.safe_load(text))) | {"out": str(out), "seed": seed}


def table(run: Path) -> str:
    rows = json.loads((run / "metrics.json").read_text())
    counts = json.loads((run / "ledger.json").read_text())["counts"]
    lines = [
        "| round | dev, % | built upon | test, % | tokens drawn | tokens trained on | labelled steps "
        "| right steps called right, % | wrong steps called wrong, % |",
        "|" + "---|" * 9,
    ]
    for number in range(1, 1 + len(list((run / "stages").glob("r*_ppo")))):
        of_round = {name: c for name, c in counts.items() if name.startswith(f"r{number}_")}
        policy = f"r{number}_ppo"
        history = (run / "stages" / f"r{number}_keep" / "metrics.jsonl").read_text().splitlines()
        kept = next(line["kept"] for line in map(json.loads, history) if "kept" in line)
        labels = run / "records" / f"r{number}_label" / "hard"
        told = "| | |"  # a round without labels of its own
        if labels.is_dir():
            steps, right, wrong = label_quality(labels)
            told = f"| {steps:,} | {100 * right:.1f} | {100 * wrong:.1f} |"
        lines.append(
            f"| {number} | {_cell(rows, f'r{number}_keep', policy)} | {kept} | {_cell(rows, 'evaluate', policy)} "
            f"| {_total(of_round, 'decoded'):,} | {_total(of_round, 'trained'):,} {told}"
        )
    first = next(r["when"] for r in rows if r["stage"] == "evaluate")
    return "\n".join([*lines, "", f"Before: test {_cell(rows, 'evaluate', first)} ({first})."])


def label_quality(folder: Path) -> tuple[int, float, float]:
    """(steps with a hard label up to the first wrong one, share of right ones labelled 1, of wrong ones labelled 0).

    Of expressions: in a problem that is turned round a line may be true and no step towards its answer.
    """
    found = {True: [0, 0], False: [0, 0]}  # by truth: how many labels agree, of how many
    for record in read_records(folder, StepLabels):
        if UNKNOWN in record.prompt:
            continue
        (first,) = working([record.prompt], [record.completions])
        end = len(record.labels) if first == NO_ERROR else first + 1
        for i, label in enumerate(record.labels[:end]):
            if not math.isnan(label):
                is_right = i != first
                found[is_right][0] += (label > 0.5) == is_right
                found[is_right][1] += 1
    shares = [agreeing / max(1, num) for agreeing, num in (found[True], found[False])]
    return found[True][1] + found[False][1], shares[0], shares[1]


def _cell(rows: list[dict[str, Any]], stage: str, when: str) -> str:
    asked = ("pass@1", "greedy", stage, when)
    of_policy = [r for r in rows if (r["metric"], r["method"], r["stage"], r["when"]) == asked]
    row = next((r for r in of_policy if r["subset"] == "all"), of_policy[0])
    return f"{100 * row['value']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def _total(counts: dict[str, dict[str, dict[str, int]]], counter: str) -> int:
    return sum(of_model.get(counter, 0) for of_stage in counts.values() for of_model in of_stage.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="finished runs to show, in place of making any")
    parser.add_argument(
        "--start", default="runs/demo/models/sft/model", help="the model that round 1 begins with"
    )
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for made in given.runs or [Path(f"runs/rounds_{name}_{given.seed}") for name in given.only]:
        if not given.runs:
            name = made.name.removeprefix("rounds_").rpartition("_")[0]
            run_stages(validate(RunConfig, config_of(name, given.start, made, given.seed), name))
        print(f"{made.name}\n\n{table(made)}\n", flush=True)
