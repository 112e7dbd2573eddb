"""Test-time compute on the demo's model, all methods and budgets: python -m tests.benchmarks.frontier [RUN] [OUT]

RUN is a finished demo (default runs/demo): its ppo policy (sft where there is none) with its prm and orm. The
problems are new ones, far from the demo's own. Prints JSON lines and leaves the report in OUT (runs/frontier).
1. all methods over budgets: the frontier; the best PRM method against majority at equal tokens, paired;
2. early stop against full self-consistency on 2,000 problems.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from reasoner.config import read_yaml, validate
from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.data.sources import SourceConfig, load_items
from reasoner.economics.cost import Prices
from reasoner.engine.local import LocalEngine
from reasoner.evals.frontier import Bench, Point, against, frontier, points_of, rows_of, to_plain
from reasoner.evals.tools import Solver
from reasoner.ledger import Ledger
from reasoner.metrics.intervals import paired_difference
from reasoner.policy.heads import ScoreNet
from reasoner.policy.models import load_model, load_tokenizer
from reasoner.report.page import write_report
from reasoner.report.rows import to_json
from reasoner.search.methods import METHODS, MethodConfig
from reasoner.store import write_json, write_text
from reasoner.tree import Problem

BUDGETS = [1, 4, 16]
NUM_FRONTIER = 240  # new problems, half of each of the demo test sets
NUM_EARLY_STOP = 2000
MAX_TOKENS = 80
METHOD_LIST = [
    {"name": "greedy"},
    {"name": "majority"},
    {"name": "weighted_majority"},
    {"name": "weighted_majority", "scorer": "orm"},
    {"name": "best_of"},
    {"name": "best_of", "aggregate": "min", "label": "best_of prm min"},
    {"name": "best_of", "scorer": "orm"},
    {"name": "borda"},
    {"name": "deepconf"},
    {"name": "early_stop"},
    {"name": "deepconf_online"},
    {"name": "adaptive"},
    {"name": "retry"},
    {"name": "cot_decoding"},
    {"name": "beam"},
    {"name": "dvts"},
    {"name": "mcts"},
    {"name": "mcts", "label": "mcts uct", "search": {"select": "uct"}},
    {"name": "switch"},
    {"name": "switch", "judge": "orm"},
    {"name": "self_critique"},
    {"name": "budget", "max_thinking": 40, "end_text": "\n#### ", "label": "budget 40"},
]
PRM_METHODS = (
    "weighted_majority",
    "best_of",
    "best_of prm min",
    "beam",
    "dvts",
    "mcts prm",
    "mcts uct",
    "self_critique prm",
)


def problems_of(run: Path, start: int, size: int) -> list[Problem]:
    """New problems like the demo's test: the same families and options from other starts, none of the test's own."""
    sources = read_yaml(run / "config.yaml")["problems"]["test"]
    test = {i.problem.prompt for s in sources for i in load_items(validate(SourceConfig, s, "test"))}
    found: dict[str, Problem] = {}
    for number, source in enumerate(sources):
        wanted = len(found) + size // len(sources)
        more = {**source, "start": start + number * 10**6, "size": 2 * size}
        for item in load_items(validate(SourceConfig, more, "frontier")):
            if item.problem.prompt not in test and len(found) < wanted:
                found.setdefault(item.problem.prompt, item.problem)
    return list(found.values())


def solver_of(run: Path) -> Solver:
    policy = next(
        run / "models" / name / "model"
        for name in ("ppo", "sft")
        if (run / "models" / name / "model").is_dir()
    )
    prompting = Prompting(
        load_tokenizer(str(policy)),
        validate(PromptConfig, read_yaml(run / "config.yaml")["prompt"], "prompt"),
    )
    ledger = Ledger()
    engine = LocalEngine(load_model(str(policy)), [prompting.eos_id], 256, 64 + MAX_TOKENS, ledger=ledger)
    nets = [ScoreNet.load(run / "models" / name / "model").eval() for name in ("prm", "orm")]
    return Solver(policy.parent.name, engine, prompting, ledger, *nets)


def line(
    name: str, ours: float, peer: float, peer_name: str, unit: str, target: float | None, **more
) -> None:
    ratio = ours / peer if unit != "tokens per problem" else peer / ours
    print(json.dumps({"name": name, "ours": ours, "peer": peer, "peer_name": peer_name, "unit": unit,
                      "ratio": round(ratio, 4), "target": target, **more}), flush=True)  # fmt: skip


def methods() -> list:
    from pydantic import TypeAdapter

    assert {m["name"] for m in METHOD_LIST} == set(METHODS)
    return [TypeAdapter(MethodConfig).validate_python(m) for m in METHOD_LIST]


def note(done: int, total: int, what: str) -> None:
    print(f"{done}/{total} {what}", file=sys.stderr, flush=True)


def whole_frontier(run: Path, out: Path, solver: Solver) -> None:
    problems = problems_of(run, 60_000_000, NUM_FRONTIER)
    bench = Bench("new problems", problems, MAX_TOKENS, 0, Prices.model_validate({}))
    points = points_of(bench, solver, methods(), BUDGETS, note)
    rows = rows_of(points, "frontier")
    write_json(out / "points.json", to_plain(points))
    write_text(out / "metrics.json", to_json(rows))
    write_report(out / "report.html", "Test-time compute on the demo's model", rows, {}, "", [], [])
    for p in frontier(points):
        print(json.dumps({"frontier": p.name, "drawn": p.drawn, "accuracy": round(p.accuracy, 4),
                          "tokens": round(p.spent.tokens, 1), "seconds": round(p.spent.seconds, 4)}), flush=True)  # fmt: skip
    compared = [c for c in against(points) if c[0].method in PRM_METHODS and c[0].num_samples > 1]
    point, base, paired = max(compared, key=lambda c: c[2].difference)
    line("best PRM method against majority at equal tokens", point.accuracy, base.accuracy, base.name, "accuracy", None,
         method=point.name, tokens=point.spent.tokens, peer_tokens=base.spent.tokens, difference=paired.difference,
         low=paired.low, high=paired.high, pairs=len(problems),
         caution="chosen as the largest of several differences, so its interval is optimistic")  # fmt: skip


def early_stop(run: Path, solver: Solver) -> None:
    problems = problems_of(run, 80_000_000, NUM_EARLY_STOP)
    bench = Bench("early stop", problems, MAX_TOKENS, 1, Prices.model_validate({}))
    from pydantic import TypeAdapter

    configs = [
        TypeAdapter(MethodConfig).validate_python(m) for m in ({"name": "majority"}, {"name": "early_stop"})
    ]
    full, stopped = points_of(bench, solver, configs, [16], note)
    assert isinstance(full, Point)
    paired = paired_difference(stopped.outcomes, full.outcomes)
    line("online early stop, tokens of full self-consistency at 16 samples", stopped.spent.tokens, full.spent.tokens,
         full.name, "tokens per problem", 2.0, pairs=len(problems), accuracy=stopped.accuracy,
         peer_accuracy=full.accuracy, difference=paired.difference, low=paired.low, high=paired.high,
         within_one_point=bool(np.abs([paired.low, paired.high]).max() <= 0.01))  # fmt: skip


def main() -> None:
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
    out = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/frontier")
    if not (run / "models" / "prm").is_dir():
        sys.exit(f"no finished demo at {run}; expected one: reasoner demo, or give its folder")
    os.makedirs(out, exist_ok=True)
    solver = solver_of(run)
    early_stop(run, solver)
    whole_frontier(run, out, solver)


if __name__ == "__main__":
    main()
