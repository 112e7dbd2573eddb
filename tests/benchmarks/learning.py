"""Learning at equal generated tokens: methods × learning rates and passes × seeds.

`python -m tests.benchmarks.learning [--problems KIND] [--out FOLDER] [--only METHOD ...] [--trials N] [--seeds N]
[--budget TOKENS] [--runs N] [KEY=VALUE ...]`

The model is the embedded one, or for `--problems words` a real chat model: KEY=VALUE changes `configs/smollm2/grpo.yaml`,
from which its prompt, problems and adapter are, and says where model and problems lie (`stages.0.model=FOLDER`) and in
which formats to compute (`precision={training: bfloat16}`).

Every side starts from the same model, and may generate the same number of tokens (those of labels and of the
PRM's training data are charged). METHOD_half may generate half of them. First each method has the same number of trials
on development problems: rates, and for on-policy methods, TRL's among them, passes over a round and minibatches, from
one grid (tests/benchmarks/trials.py). Then it goes on the test problems, once per seed, with what was best there; it is
not tried any more from then on. A run that takes more than ten minutes of CPU time (an hour for `words`) is stopped and
stored as such; time spent waiting does not count. Runs are stored in FOLDER/KIND/runs.jsonl as they end, and the same
command goes on with those that are missing; --runs bounds how many it makes now, 0 only shows what is stored. The table
shows each method's seeds with 95 % intervals, and its difference from TRL's GRPO with the whole budget.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import signal
import statistics
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reasoner.config import validate
from reasoner.pipeline import RunConfig
from reasoner.pipeline import run as run_stages
from reasoner.policy.machine import Precision, use
from reasoner.report.charts import Estimate, Panel, interval_chart
from tests.benchmarks import trl_grpo
from tests.benchmarks.measure import save_chart
from tests.benchmarks.problem_kinds import KINDS, Kind, words
from tests.benchmarks.trials import Cell, Choice, choice_of, chosen, difference, half_width, is_trial, missing

START_LIMIT_S = 900
PEER = "grpo_trl"
MEASURE = "sampled_all"  # accuracy at temperature 1, four draws a problem: what on-policy training raises
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
        "kind": "ppo", "name": "trained", "model": "START", "rounds": 10**6, "tree": tree, "num_slots": 256,
        "minibatches": 2, **options,
    }  # fmt: skip


def offline(last: dict) -> list[dict]:
    return [
        {"kind": "rollout", "model": "START", "tree": LABELS},
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

GRPO = {"advantage": {"method": "grpo", "normalise": "sequences"}, "whiten": False}
# chains of every problem teach, against the pass rate that is predicted from earlier rounds; nothing is chosen by it
SHRUNK = {"advantage": {"method": "shrunk"}, "curriculum": {"uniform": 1}, "drop_uniform": False}

# the stages after the common start, and the middle of the five learning rates (of the stage called trained);
# with a critic two chains of a problem do, and there are more problems in a round of as many tokens
METHODS: dict[str, tuple[list[dict], float]] = {
    "sft": ([{"kind": "sft", "name": "trained", "model": "START", "batch_size": 64}], 2.5e-4),
    "rft": (offline({"kind": "sft", "problems": [], "batch_size": 64}), 1e-3),
    "dpo": (offline({"kind": "dpo"}), 4e-4),
    "step_dpo": (offline({"kind": "dpo", "pairs": "step_pairs"}), 4e-4),
    "grpo_trl": ([], 4e-4),
    "grpo": ([on_policy(FAN, **GRPO)], 4e-4),
    "grpo_gated": ([on_policy(FAN, **GRPO, min_effective=0.9)], 4e-4),
    "screen": ([on_policy(FAN, **GRPO, screen=4)], 4e-4),
    # the two levers that gave most alone (levers.py)
    "combined": ([on_policy(FAN, **GRPO, screen=4, min_effective=0.9)], 4e-4),
    "maxrl": ([on_policy(FAN, advantage={"method": "maxrl"}, whiten=False)], 4e-4),
    "shrunk": ([on_policy(PAIR, **SHRUNK)], 4e-4),
    "prime": ([on_policy(FAN, advantage={"method": "rloo"}, implicit_prm={"optimizer": {"lr": 1e-3}})], 4e-4),
    "ppo_outcome": ([on_policy(PAIR, advantage={"method": "ppo"}, drop_uniform=False, **CRITIC)], 4e-4),
    "step_ppo_prm": ([*REWARD_MODELS, on_policy(PAIR, drop_uniform=False, **STEP_PPO)], 4e-4),
    "step_ppo_tree": ([*REWARD_MODELS, on_policy(TREE, **STEP_PPO)], 4e-4),
    "spo_tree": ([on_policy(TREE, advantage={"method": "spo_tree"})], 4e-4),
    "vineppo": ([on_policy(VINES, advantage={"method": "vineppo"})], 4e-4),
}  # fmt: skip
ON_POLICY = [PEER, *(m for m, (stages, _) in METHODS.items() if stages and stages[-1]["kind"] == "ppo")]
HALVED = "_half"  # with half of the tokens
METHODS |= {m + HALVED: METHODS[m] for m in ON_POLICY}
CLIMBERS = [m for m in METHODS if m.removesuffix(HALVED) in ON_POLICY]  # that may pass over a round again


def apart(work: Callable[[], dict], log: Path, limit: int) -> dict:
    """What `work` returns in a forked process (the imports are paid once), or why it failed; with its CPU seconds."""
    receive, send = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_child, args=(work, log, limit, send))
    child.start()
    send.close()
    try:
        row = receive.recv()
    except EOFError:
        row = {}
    child.join()
    if not row:
        row = {"failed": f"was killed by signal {-(child.exitcode or 0)}"}
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


def evaluated(policy: str, kind: Kind) -> dict:
    return {
        "kind": "evaluate",
        "policies": [policy],
        "sampled": [policy],
        "num_samples": 4,
        "max_tokens": kind.longest,
        **kind.sampling,
    }


def start(out: Path, kind: Kind) -> tuple[Path, list[float]]:
    """The model that all start from, made once, and the tokens that each of TREES takes with it per problem."""
    folder = out / "start"
    if not (folder / "metrics.json").is_file():
        stages = [
            *kind.start,
            *({"kind": "rollout", "name": f"tree_{i}", "model": "sft", "num_problems": MEASURED,
               "max_tokens": kind.longest, "tree": tree, **kind.sampling} for i, tree in enumerate(TREES)),
            evaluated("sft", kind),
        ]  # fmt: skip
        config = config_of(folder, 0, stages, problems_of(kind, out), kind)
        made = apart(lambda: _run(config), out / "start.log", max(START_LIMIT_S, kind.limit_s))
        if "failed" in made:
            raise SystemExit(f"no start: {made['failed']}; see {out / 'start.log'}")
    counts = json.loads((folder / "ledger.json").read_text())["counts"]
    tokens = [counts[f"tree_{i}"]["policy"]["decoded"] / MEASURED for i in range(len(TREES))]
    return folder / "models/sft/model", tokens


def _run(config: dict) -> dict:
    run_stages(validate(RunConfig, config, "learning"))
    return {}


def problems_of(kind: Kind, out: Path, is_tried: bool = False) -> dict[str, list[dict]]:
    """The sources of a run, which tests on the development problems where it is a trial."""
    found = kind.problems(out / "problems")
    development = found.pop("development")
    return {**found, "test": development} if is_tried else found


def config_of(out: Path, seed: int, stages: list[dict], problems: dict, kind: Kind) -> dict:
    return {
        "title": "learning", "out": str(out), "seed": seed, "prompt": dict(kind.prompt), "precision": dict(kind.precision),
        "problems": problems, "stages": stages,
    }  # fmt: skip


def stages_of(
    method: str, choice: Choice, model: Path, tokens: list[float], budget: int, kind: Kind
) -> list[dict]:
    """The method's stages with a choice of the grid, and as many problems and rounds as the budget pays for."""
    stages = json.loads(json.dumps(METHODS[method][0]).replace('"START"', json.dumps(str(model))))
    has_prm = any(s["kind"] == "prm" for s in stages)
    for stage in stages:
        if stage["kind"] in ("rollout", "ppo"):
            stage |= {"max_tokens": kind.longest, **kind.sampling}
        if stage["kind"] in ("sft", "dpo", "prm", "orm", "ppo"):
            stage |= kind.lora
        if stage["kind"] == "rollout":
            share = PRM_SHARE if has_prm else 1.0
            stage["num_problems"] = max(8, int(share * budget / tokens[TREES.index(stage["tree"])]))
        if stage["kind"] == "ppo":
            stage["problems_per_round"] = problems_a_round(stage["tree"], tokens, kind)
            stage["generated_tokens"] = int((1 - has_prm * PRM_SHARE) * budget)
            stage |= {"epochs": choice.epochs, "minibatches": choice.minibatches, **kind.tokens_per_batch}
        if stage.get("name") == "trained":
            stage["optimizer"] = {"lr": rate_of(method, choice, kind)}
    return [*stages, evaluated("trained", kind)]


def problems_a_round(tree: dict, tokens: list[float], kind: Kind) -> int:
    return 2 * round(kind.round_tokens / tokens[TREES.index(tree)] / 2)


def rate_of(method: str, choice: Choice, kind: Kind) -> float:
    return METHODS[method][1] * choice.factor * kind.rate


def run(cell: Cell, budget: int, out: Path, kind: Kind) -> dict:
    """One cell: accuracy, and the tokens that were generated and trained on."""
    model, tokens = start(out, kind)
    method, choice, seed = cell
    folder = out / "runs" / f"{method}-{'-'.join(f'{x:g}' for x in choice)}-{seed}-{budget}"
    folder.mkdir(parents=True, exist_ok=True)
    paid = budget // 2 if method.endswith(HALVED) else budget

    def work() -> dict:
        generated = trained = 0
        stages = stages_of(method, choice, model, tokens, paid, kind)
        problems = problems_of(kind, out, is_trial(seed))
        if method.removesuffix(HALVED) == PEER:
            use(Precision(**kind.precision))
            generated = trl_grpo.train(
                model, folder / "peer", problems["train"], kind, rate_of(method, choice, kind), seed, paid,
                problems_a_round(FAN, tokens, kind), choice.epochs, choice.minibatches,
            )  # fmt: skip
            trained = choice.epochs * generated
            stages = [evaluated(str(folder / "peer"), kind)]
        made = folder / "run"  # a folder of its own: a run takes no other files beside its own
        run_stages(validate(RunConfig, config_of(made, seed, stages, problems, kind), "learning"))
        for stage, models in json.loads((made / "ledger.json").read_text())["counts"].items():
            if stage != "evaluate":
                generated += sum(m.get("decoded", 0) for m in models.values())
                trained += sum(m.get("trained", 0) for m in models.values())
        return {**accuracies(made), "generated": generated, "trained": trained}

    key = {"method": method, **choice._asdict(), "seed": seed, "budget": budget}
    return key | apart(work, folder / "log", kind.limit_s)


def accuracies(folder: Path) -> dict[str, float]:
    rows = json.loads((folder / "metrics.json").read_text())
    return {f"{r['method']}_{r['subset']}": r["value"] for r in rows if r["metric"] == "pass@1"}


def reported(rows: list[dict]) -> dict[str, list[dict]]:
    """Per method its runs on the test problems."""
    found = {m: [r for r in rows if r["method"] == m and not is_trial(r["seed"])] for m in METHODS}
    return {m: of for m, of in found.items() if any("failed" not in r for r in of)}


def values(of: list[dict], column: str = MEASURE) -> list[float]:
    return [100 * r[column] for r in of if "failed" not in r]


def estimate(method: str, of: list[dict]) -> Estimate:
    """The mean accuracy with its interval over seeds."""
    mean, half = statistics.mean(values(of)), half_width(values(of))
    return Estimate(method, mean, mean - half, mean + half)


def table(rows: list[dict], out: Path, kind: Kind) -> str:
    columns = (MEASURE, *(f"sampled_{domain}" for domain in kind.domains), "greedy_all")
    heads = [
        "method", "trials", "rate, passes, minibatches", "seeds (failed)", "accuracy %", "against TRL's GRPO",
        *kind.domains, "greedy", "generated", "trained on", "CPU s",
    ]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    if (out / "start" / "metrics.json").is_file():
        at_first = accuracies(out / "start")
        shown = [f"{100 * at_first[c]:.1f}" for c in columns]
        lines.append(f"| the start | | | | {shown[0]} | | {' | '.join(shown[1:])} | 0 | 0 | |")
    found = reported(rows)
    for method, of in found.items():
        choice, ended = choice_of(of[0]), [r for r in of if "failed" not in r]
        mean, others = estimate(method, of), [f"{statistics.mean(values(of, c)):.1f}" for c in columns[1:]]
        costs = [
            f"{statistics.mean(r[c] for r in ended):,.0f}" for c in ("generated", "trained", "cpu_seconds")
        ]
        right = f"{mean.value:.1f} ({mean.low:.1f} to {mean.high:.1f})".removesuffix(" (nan to nan)")
        against = ""
        if PEER in found and method != PEER:
            ahead, half = difference(values(of), values(found[PEER]))
            against = f"{ahead:+.1f} ({ahead - half:+.1f} to {ahead + half:+.1f})".removesuffix(" (+nan to +nan)")
        trials = len({choice_of(r) for r in rows if r["method"] == method and is_trial(r["seed"])})
        lines.append(
            f"| {method} | {trials} | {rate_of(method, choice, kind):g}, {choice.epochs}, {choice.minibatches} "
            f"| {len(ended)} ({len(of) - len(ended)}) | {right} "
            f"| {against} | {' | '.join([*others, *costs])} |"
        )
    return "\n".join(lines)


def trials_table(rows: list[dict], kind: Kind) -> str:
    """Each method's trials on development problems, and which of them is reported."""
    lines = [
        "| method | rate | passes | minibatches | accuracy % on development problems | chosen |",
        "|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        of = [r for r in rows if r["method"] == method and is_trial(r["seed"])]
        best = chosen(rows, method, MEASURE)
        for choice in dict.fromkeys(choice_of(r) for r in of):
            shown = " ".join(
                r.get("failed", "") or f"{100 * r[MEASURE]:.1f}" for r in of if choice_of(r) == choice
            )
            lines.append(
                f"| {method} | {rate_of(method, choice, kind):g} | {choice.epochs} | {choice.minibatches} | {shown} "
                f"| {'yes' if choice == best else ''} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--problems", choices=list(KINDS), default="sums", metavar="KIND", help=", ".join(KINDS)
    )
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--only", nargs="*", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument(
        "--trials", type=int, default=10, help="most trials of each method before its seeds; 0: the grid's middle"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, help="generated tokens of one run, if not the kind's own")
    parser.add_argument("--runs", type=int, default=10**9, help="most runs to make now")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="to the file that `words` are from")
    arguments = parser.parse_args()
    if arguments.changes and arguments.problems != "words":
        parser.error(f"KEY=VALUE goes with --problems words; got {arguments.changes}")
    kind, out = KINDS[arguments.problems], arguments.out / arguments.problems
    if arguments.changes:
        kind = words(arguments.changes)
    budget = arguments.budget or kind.budget
    out.mkdir(parents=True, exist_ok=True)
    stored = out / "runs.jsonl"
    rows = [json.loads(x) for x in stored.read_text().splitlines()] if stored.is_file() else []
    rows = [r for r in rows if r["budget"] == budget]
    cells = missing(rows, arguments.only, arguments.trials, arguments.seeds, MEASURE, CLIMBERS)
    for _, cell in zip(range(arguments.runs), cells, strict=False):
        rows.append(run(cell, budget, out, kind))
        with open(stored, "a", encoding="utf-8") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(trials_table(rows, kind) + "\n\n" + table(rows, out, kind))
    found = reported(rows)
    if found:
        chart = interval_chart(
            [Panel("accuracy at equal generated tokens", [estimate(m, of) for m, of in found.items()])]
        )
        save_chart(out / "learning.svg", chart)
    for method, of in found.items() if PEER in found else ():
        ours, peer = (statistics.mean(values(x)) for x in (of, found[PEER]))
        line = {
            "name": f"learning, {arguments.problems}: {method}", "ours": round(ours, 2), "peer": round(peer, 2),
            "peer_name": "trl.GRPOTrainer", "unit": f"accuracy % at {budget} generated tokens",
            "ratio": round(ours / max(1e-9, peer), 3), "target": None, "pairs": len(values(of)),
        }  # fmt: skip
        print(json.dumps(line))


if __name__ == "__main__":
    main()
