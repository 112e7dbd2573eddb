"""What each lever on the use of tokens gives alone, at equal generated tokens, on development problems.

`python -m tests.benchmarks.levers [--out FOLDER] [--only LEVER ...] [--seeds N] [--budget TOKENS] [--runs N]`

Every run starts from the model that `learning` starts from, trains by GRPO with one rate (the middle of `learning`'s
grid, not tuned; twice that where the rate is the lever), and may generate the same number of tokens. `plain` is without
any lever. All problems that accuracy is measured on are of ranges that no other benchmark tests on. Runs are stored as
they end, and the same command goes on with those that are missing. Differences are from `plain` with the same seed,
with 95 % intervals over seeds.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reasoner.config import validate
from reasoner.pipeline import RunConfig
from reasoner.pipeline import run as run_stages
from reasoner.trainers.curriculum import Curriculum, History, expected
from reasoner.tree import Problem
from tests.benchmarks import learning
from tests.benchmarks.learning import FAN, MEASURE
from tests.benchmarks.problem_kinds import KINDS
from tests.benchmarks.trials import half_width

SUMS = KINDS["sums"]
RATE = 4e-4
COLUMNS = (MEASURE, "sampled_short", "sampled_longer", "greedy_all")
ALWAYS_WRONG = {"predictor": "tests.benchmarks.levers:worst"}

PASSES = {"epochs": 3, "min_effective": 0.9}
TWICE = {"optimizer": {"lr": 2 * RATE}}

# what each lever adds to plain GRPO
LEVERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "epochs": PASSES,
    "replay": {"replay": {}},
    "curriculum": {"curriculum": {}},
    "screen": {"screen": 4},
    "starts": {"starts": {}},
    "wrong_predictor": {"curriculum": ALWAYS_WRONG},
    "epochs_curriculum": {**PASSES, "curriculum": {}},
    "epochs_screen": {**PASSES, "screen": 4},
    "rate": TWICE,
    "rate_epochs": {**TWICE, **PASSES},
}


def worst(
    problems: Sequence[Problem], history: History, config: Curriculum, round: int, rng: random.Random
) -> list[float]:
    """A predictor that is wrong on purpose: it calls one half what is solved always or never."""
    found = []
    for problem in problems:
        a, b = expected(problem, history, config, round)
        found.append(abs(a / (a + b) - 0.5))
    return [0.5 * (1 if far == 0 else far / max(found)) for far in found]


def stages_of(lever: str, model: Path, tokens: list[float], budget: int) -> list[dict]:
    options = {**learning.GRPO, "optimizer": {"lr": RATE}, **LEVERS[lever]}
    trained = learning.on_policy(
        FAN, **options, max_tokens=SUMS.longest, generated_tokens=budget,
        problems_per_round=learning.problems_a_round(FAN, tokens, SUMS),
    )  # fmt: skip
    return json.loads(json.dumps([trained]).replace('"START"', json.dumps(str(model))))


def run(lever: str, seed: int, budget: int, out: Path) -> dict:
    """One cell: accuracy on the development problems, and the tokens that were generated and trained on."""
    model, tokens = learning.start(out, SUMS)
    folder = out / "levers" / f"{lever}-{seed}-{budget}"
    folder.mkdir(parents=True, exist_ok=True)

    def cell() -> dict:
        stages = [*stages_of(lever, model, tokens, budget), learning.evaluated("trained", SUMS)]
        made = folder / "run"
        problems = learning.problems_of(SUMS, out, is_tried=True)
        run_stages(validate(RunConfig, learning.config_of(made, seed, stages, problems, SUMS), "levers"))
        counts = json.loads((made / "ledger.json").read_text())["counts"]["trained"]
        spent = {name: sum(m.get(key, 0) for m in counts.values()) for name, key in SPENT.items()}
        return {**learning.accuracies(made), **spent}

    return {"lever": lever, "seed": seed, "budget": budget} | learning.apart(cell, folder / "log", SUMS.limit_s)


SPENT = {"generated": "decoded", "trained": "trained"}


def missing(rows: list[dict], levers: list[str], num_seeds: int) -> Iterator[tuple[str, int]]:
    done = {(r["lever"], r["seed"]) for r in rows}
    for seed in range(1, 1 + num_seeds):
        yield from ((lever, seed) for lever in levers if (lever, seed) not in done)


def interval(values: list[float]) -> str:
    """The mean, and the half width of its 95 % interval."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.1f}"
    half = half_width(values)
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def table(rows: list[dict]) -> str:
    """Each lever's accuracy, and its difference from `plain` over the seeds that both have."""
    lines = [
        "| lever | seeds | accuracy % | short | longer | greedy | against plain | generated | trained on | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    plain = {r["seed"]: r for r in rows if r["lever"] == "plain" and "failed" not in r}
    for lever in LEVERS:
        of = [r for r in rows if r["lever"] == lever and "failed" not in r]
        if not of:
            continue
        shown = " | ".join(f"{100 * statistics.mean(r[c] for r in of):.1f}" for c in COLUMNS)
        against = [100 * (r[MEASURE] - plain[r["seed"]][MEASURE]) for r in of if r["seed"] in plain]
        difference = interval(against) if against and lever != "plain" else ""
        costs = " | ".join(
            f"{statistics.mean(r[c] for r in of):,.0f}" for c in ("generated", "trained", "cpu_seconds")
        )
        lines.append(f"| {lever} | {len(of)} | {shown} | {difference} | {costs} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--only", nargs="*", default=list(LEVERS), choices=list(LEVERS), metavar="LEVER")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=60_000, help="generated tokens of one run")
    parser.add_argument("--runs", type=int, default=10**9, help="most runs to make now")
    arguments = parser.parse_args()
    out = arguments.out / "sums"
    out.mkdir(parents=True, exist_ok=True)
    stored = out / "levers.jsonl"
    rows = [json.loads(x) for x in stored.read_text().splitlines()] if stored.is_file() else []
    rows = [r for r in rows if r["budget"] == arguments.budget]
    for _, cell in zip(range(arguments.runs), missing(rows, arguments.only, arguments.seeds), strict=False):
        rows.append(run(*cell, arguments.budget, out))
        with open(stored, "a", encoding="utf-8") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
