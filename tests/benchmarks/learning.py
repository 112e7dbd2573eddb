"""Learning at equal generated tokens, on the embedded model: methods × learning rates × seeds.

`python -m tests.benchmarks.learning [--out FOLDER] [--only METHOD ...] [--seeds N] [--budget TOKENS] [--runs N]`

Every side starts from the same supervised model, may generate the same number of tokens (those of
labels and of the PRM's training data are charged), and gets the same five learning rates. First all rates are
tried on seed 0; then each method goes on to the other seeds with the rate that was best there. (So seed 0 is in
every method's favour alike.) A run that takes more than three minutes of CPU time is stopped and stored as such;
time spent waiting does not count. Runs are stored in FOLDER/runs.jsonl as they end, and the same command goes on
with those that are missing; --runs bounds how many it makes now, 0 only shows what is stored. The table shows
each method at its best rate, with 95 % intervals over seeds; METHOD_half may generate half of the tokens.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import signal
import statistics
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from reasoner.config import validate
from reasoner.pipeline import RunConfig
from reasoner.pipeline import run as run_stages
from reasoner.report.charts import Estimate, Panel, interval_chart
from tests.benchmarks import trl_grpo
from tests.benchmarks.measure import save_chart

LIMIT_S, START_LIMIT_S = 180, 900
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of each method's own middle rate
PEER = "grpo_trl"
MEASURE = "sampled_all"  # accuracy at temperature 1, four draws a problem: what on-policy training raises
COLUMNS = (MEASURE, "sampled_short", "sampled_longer", "greedy_all")
ROUND_TOKENS = 4000  # of a round at the start; chains grow as the policy learns to work problems out
LONGEST = 80
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # two-sided, by number of seeds

# the demo's problems, fewer of them to test on, and its imitated start
DEMO = yaml.safe_load((Path(__file__).parents[2] / "configs" / "demo.yaml").read_text(encoding="utf-8"))
PROBLEMS = DEMO["problems"]
for held_out in PROBLEMS["test"]:
    held_out["size"] = 500
IMITATE = next(s for s in DEMO["stages"] if s["kind"] == "sft")
FAN = {"num_roots": 8, "num_points": 0}
PAIR = {"num_roots": 2, "num_points": 0}
TREE = {"num_roots": 4, "where": "coin", "num_points": 2, "num_children": 1}
VINES = {"num_roots": 2, "where": "every_step", "num_points": 3, "num_children": 2}
LABELS = {"num_roots": 3, "where": "spread_steps", "num_points": 2, "num_children": 2}
TREES = [FAN, PAIR, TREE, VINES, LABELS]
MEASURED = 100  # problems on which a tree's tokens are counted
PRM_SHARE = 0.2  # of the budget, where reward models are trained


def on_policy(tree: dict, **options: Any) -> dict:
    return {
        "kind": "ppo", "name": "trained", "model": "START", "rounds": 10**6, "max_tokens": LONGEST, "tree": tree,
        "num_slots": 256, "minibatches": 2, **options,
    }  # fmt: skip


def offline(last: dict) -> list[dict]:
    return [
        {"kind": "rollout", "model": "START", "max_tokens": LONGEST, "tree": LABELS},
        {"kind": "verify", "model": "START"},
        {"kind": "label", "model": "START", "step_pairs": {"min_edits": 1, "confidence": 0.9}},
        {
            **last,
            "name": "trained",
            "model": "START",
            "labels" if last["kind"] == "dpo" else "traces": "label",
        },
    ]


REWARD_MODELS = [
    *offline({"kind": "sft"})[:3],
    {"kind": "prm", "model": "START", "reads": "likelihood", "batch_size": 64, "optimizer": {"lr": 3e-4}},
    {"kind": "orm", "model": "START", "positions": "all", "batch_size": 64, "optimizer": {"lr": 1e-3}},
]
CRITIC = {"critic_optimizer": {"lr": 5e-4}}
STEP_PPO = {
    **CRITIC,
    "critic": "orm",
    "prm": "prm",
    "advantage": {"method": "step_ppo", "reward": {"prm_weight": 0.1}},
}

# the stages after the common start, and the middle of the five learning rates (of the stage called trained);
# with a critic two chains of a problem do, and there are more problems in a round of as many tokens
METHODS: dict[str, tuple[list[dict], float]] = {
    "sft": ([{"kind": "sft", "name": "trained", "model": "START", "batch_size": 64}], 2.5e-4),
    "rft": (offline({"kind": "sft", "problems": [], "batch_size": 64}), 1e-3),
    "dpo": (offline({"kind": "dpo"}), 4e-4),
    "step_dpo": (offline({"kind": "dpo", "pairs": "step_pairs"}), 4e-4),
    "grpo_trl": ([], 4e-4),
    "grpo": ([on_policy(FAN, advantage={"method": "grpo", "normalise": "sequences"}, whiten=False)], 4e-4),
    "prime": ([on_policy(FAN, advantage={"method": "rloo"}, implicit_prm={"optimizer": {"lr": 1e-3}})], 4e-4),
    "ppo_outcome": ([on_policy(PAIR, advantage={"method": "ppo"}, drop_uniform=False, **CRITIC)], 4e-4),
    "step_ppo_prm": ([*REWARD_MODELS, on_policy(PAIR, drop_uniform=False, **STEP_PPO)], 4e-4),
    "step_ppo_tree": ([*REWARD_MODELS, on_policy(TREE, **STEP_PPO)], 4e-4),
    "spo_tree": ([on_policy(TREE, advantage={"method": "spo_tree"})], 4e-4),
    "vineppo": ([on_policy(VINES, advantage={"method": "vineppo"})], 4e-4),
}  # fmt: skip
HALVED = "_half"  # these with half of the tokens
METHODS |= {m + HALVED: METHODS[m] for m in ("ppo_outcome", "step_ppo_prm", "spo_tree")}


def apart(work: Callable[[], dict], log: Path, limit: int = LIMIT_S) -> dict:
    """What `work` returns in a forked process (the imports are paid once), or why it failed; with its CPU seconds."""
    receive, send = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_child, args=(work, log, limit, send))
    child.start()
    send.close()
    try:
        row = receive.recv()
    except EOFError:
        row = {"failed": f"was killed by signal {-(child.exitcode or 0)}"}
    child.join()
    if child.exitcode == -signal.SIGXCPU:
        row = {"failed": f"took more than {limit} s of CPU time"}
    return row


def _child(work: Callable[[], dict], log: Path, limit: int, send: Any) -> None:
    with open(log, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 10))
        try:
            row = work()
        except Exception as problem:  # the cell failed, the table goes on
            traceback.print_exc()
            row = {"failed": f"{type(problem).__name__}: {problem}"[:300]}
        send.send(row | {"cpu_seconds": round(resource.getrusage(resource.RUSAGE_SELF).ru_utime, 1)})


def evaluated(policy: str) -> dict:
    return {
        "kind": "evaluate",
        "policies": [policy],
        "sampled": [policy],
        "num_samples": 4,
        "max_tokens": LONGEST,
    }


def start(out: Path) -> tuple[Path, list[float]]:
    """The supervised model, made once, and the tokens that each of TREES takes with it per problem."""
    folder = out / "start"
    if not (folder / "metrics.json").is_file():
        stages = [
            {"kind": "init"},
            IMITATE,
            *({"kind": "rollout", "name": f"tree_{i}", "model": "sft", "num_problems": MEASURED, "max_tokens": LONGEST,
               "tree": tree} for i, tree in enumerate(TREES)),
            evaluated("sft"),
        ]  # fmt: skip
        made = apart(lambda: _run(_config(folder, 0, stages)), out / "start.log", START_LIMIT_S)
        if "failed" in made:
            raise SystemExit(f"no start: {made['failed']}; see {out / 'start.log'}")
    counts = json.loads((folder / "ledger.json").read_text())["counts"]
    tokens = [counts[f"tree_{i}"]["policy"]["decoded"] / MEASURED for i in range(len(TREES))]
    return folder / "models/sft/model", tokens


def _run(config: dict) -> dict:
    run_stages(validate(RunConfig, config, "learning"))
    return {}


def _config(out: Path, seed: int, stages: list[dict]) -> dict:
    return {
        "title": "learning", "out": str(out), "seed": seed, "prompt": {"template": "{prompt}=\n"},
        "problems": PROBLEMS, "stages": stages,
    }  # fmt: skip


def stages_of(method: str, rate: float, model: Path, tokens: list[float], budget: int) -> list[dict]:
    """The method's stages at a learning rate, with as many problems and rounds as the budget pays for."""
    budget = budget // 2 if method.endswith(HALVED) else budget
    stages = json.loads(json.dumps(METHODS[method][0]).replace('"START"', json.dumps(str(model))))
    has_prm = any(s["kind"] == "prm" for s in stages)
    for stage in stages:
        if stage["kind"] == "rollout":
            share = PRM_SHARE if has_prm else 1.0
            stage["num_problems"] = max(8, int(share * budget / tokens[TREES.index(stage["tree"])]))
        if stage["kind"] == "ppo":
            stage["problems_per_round"] = problems_a_round(stage["tree"], tokens)
            stage["generated_tokens"] = int((1 - has_prm * PRM_SHARE) * budget)
        if stage.get("name") == "trained":
            stage["optimizer"] = {"lr": rate}
    return [*stages, evaluated("trained")]


def problems_a_round(tree: dict, tokens: list[float]) -> int:
    return 2 * round(ROUND_TOKENS / tokens[TREES.index(tree)] / 2)


def run(method: str, rate: float, seed: int, budget: int, out: Path) -> dict:
    """One cell: accuracy, and the tokens that were generated and trained on."""
    model, tokens = start(out)
    folder = out / "runs" / f"{method}-{rate:g}-{seed}-{budget}"
    folder.mkdir(parents=True, exist_ok=True)

    def cell() -> dict:
        generated = trained = 0
        stages = stages_of(method, rate, model, tokens, budget)
        if method == PEER:
            generated = trained = trl_grpo.train(
                model,
                folder / "peer",
                PROBLEMS["train"],
                rate,
                seed,
                budget,
                problems_a_round(FAN, tokens),
                LONGEST,
            )
            stages = [evaluated(str(folder / "peer"))]
        made = folder / "run"  # a folder of its own: a run takes no other files beside its own
        run_stages(validate(RunConfig, _config(made, seed, stages), "learning"))
        for stage, models in json.loads((made / "ledger.json").read_text())["counts"].items():
            if stage != "evaluate":
                generated += sum(m.get("decoded", 0) for m in models.values())
                trained += sum(m.get("trained", 0) for m in models.values())
        return {**accuracies(made), "generated": generated, "trained": trained}

    key = {"method": method, "rate": rate, "seed": seed, "budget": budget}
    return key | apart(cell, folder / "log")


def accuracies(folder: Path) -> dict[str, float]:
    rows = json.loads((folder / "metrics.json").read_text())
    return {f"{r['method']}_{r['subset']}": r["value"] for r in rows if r["metric"] == "pass@1"}


def best_rates(rows: list[dict]) -> dict[str, float]:
    """Per method the rate with the best accuracy on seed 0."""
    swept = [r for r in rows if r["seed"] == 0 and "failed" not in r]
    found = {m: [r for r in swept if r["method"] == m] for m in METHODS}
    return {m: max(of, key=lambda r: r[MEASURE])["rate"] for m, of in found.items() if of}


def missing(rows: list[dict], methods: list[str], num_seeds: int) -> Iterator[tuple[str, float, int]]:
    """(method, rate, seed) of the next runs: all rates on seed 0, from the middle outwards, then the other seeds."""
    done = {(r["method"], r["rate"], r["seed"]) for r in rows}
    for factor in sorted(FACTORS, key=lambda f: (abs(math.log(f)), -f)):
        for method in methods:
            if (cell := (method, METHODS[method][1] * factor, 0)) not in done:
                yield cell
    for seed in range(1, num_seeds):
        for method in methods:
            # `rows` grows while this goes on
            if method in (best := best_rates(rows)) and (cell := (method, best[method], seed)) not in done:
                yield cell


def summary(rows: list[dict]) -> dict[str, tuple[float, Estimate, list[dict]]]:
    """Per method its best rate, the mean accuracy there with its interval over seeds, and the runs."""
    found = {}
    for method, rate in best_rates(rows).items():
        runs = [r for r in rows if (r["method"], r["rate"]) == (method, rate) and "failed" not in r]
        values = [100 * r[MEASURE] for r in runs]
        mean, half = statistics.mean(values), math.nan
        if len(values) > 1:
            half = T_95.get(len(values), 1.96) * statistics.stdev(values) / math.sqrt(len(values))
        found[method] = (rate, Estimate(method, mean, mean - half, mean + half), runs)
    return found


def table(rows: list[dict], out: Path) -> str:
    lines = [
        "| method | rates tried (failed runs) | best rate | seeds | accuracy % | short | longer | greedy | generated tokens |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    if (out / "start" / "metrics.json").is_file():
        at_first = accuracies(out / "start")
        shown = " | ".join(f"{100 * at_first[c]:.1f}" for c in COLUMNS)
        lines.append(f"| the start | | | | {shown} | 0 |")
    for method, (rate, estimate, best) in summary(rows).items():
        of = [r for r in rows if r["method"] == method]
        failed = sum("failed" in r for r in of)
        others = " | ".join(f"{100 * statistics.mean(r[c] for r in best):.1f}" for c in COLUMNS[1:])
        interval = f" ({estimate.low:.1f} to {estimate.high:.1f})" if len(best) > 1 else ""
        lines.append(
            f"| {method} | {len({r['rate'] for r in of})} of {len(FACTORS)} ({failed}) | {rate:g} | {len(best)} "
            f"| {estimate.value:.1f}{interval} | {others} "
            f"| {statistics.mean(r['generated'] for r in best):,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--only", nargs="*", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=120_000, help="generated tokens of one run")
    parser.add_argument("--runs", type=int, default=10**9, help="most runs to make now")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    stored = arguments.out / "runs.jsonl"
    rows = [json.loads(x) for x in stored.read_text().splitlines()] if stored.is_file() else []
    rows = [r for r in rows if r["budget"] == arguments.budget]
    for _, cell in zip(range(arguments.runs), missing(rows, arguments.only, arguments.seeds), strict=False):
        rows.append(run(*cell, arguments.budget, arguments.out))
        with open(stored, "a", encoding="utf-8") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(table(rows, arguments.out))
    best = summary(rows)
    if best:
        chart = interval_chart(
            [Panel("accuracy at equal generated tokens", [e for _, e, _ in best.values()])]
        )
        save_chart(arguments.out / "learning.svg", chart)
    if PEER in best:
        for method, (_, estimate, runs) in best.items():
            line = {
                "name": f"learning: {method}", "ours": round(estimate.value, 2), "peer": round(best[PEER][1].value, 2),
                "peer_name": "trl.GRPOTrainer", "unit": f"accuracy % at {arguments.budget} generated tokens",
                "ratio": round(estimate.value / max(1e-9, best[PEER][1].value), 3), "target": None, "pairs": len(runs),
            }  # fmt: skip
            print(json.dumps(line))


if __name__ == "__main__":
    main()
