"""A PRM of people's ratings against what a step's surface tells: `python -m tests.benchmarks.prm800k RUN [RUN ...]`.

RUN is the folder of `reasoner train configs/prm/prm800k.yaml`. On the problems that the run held out: AUROC of the
PRM and of a logistic regression on a step's number, its length and whether it holds "=", fitted to the run's
training problems. Intervals are over problems. One JSON line for the comparison, one for what training took.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import yaml

from reasoner.metrics.intervals import bootstrap
from reasoner.metrics.reward_quality import auroc, brier_skill
from reasoner.policy.heads import ScoreNet
from reasoner.policy.labelled import from_steps
from reasoner.records import StepLabels
from reasoner.signals.step_labels import with_neutral
from reasoner.store import read_json, read_records
from reasoner.trainers.reward_model import score, split

SURFACE = "logistic regression on a step's number, length and '='"
Problems = dict[str, tuple[list[float], list[bool]]]  # scores and labels of the steps of each


def measure(run: Path) -> Iterator[dict]:
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    stage = next(s for s in config["stages"] if s["kind"] == "prm")
    folder = run / "records" / stage["labels"] / stage["label_kind"]
    records = list(with_neutral(read_records(folder, StepLabels), stage["neutral"]))
    _, held = split(from_steps(records, stage["tokens_per_batch"]), stage["holdout"], config["seed"])
    held_ids = {d.tree.problem.id for d in held}

    net = ScoreNet.load(run / "models" / stage["name"] / "model").eval()
    by_prm: Problems = defaultdict(lambda: ([], []))
    for d in held:
        scores, labels, _ = score(net, [d], stage["tokens_per_batch"], "cpu")
        by_prm[d.tree.problem.id][0].extend(scores)
        by_prm[d.tree.problem.id][1].extend(y > 0.5 for y in labels)
    fitted = logistic_regression(*surface([r for r in records if r.problem_id not in held_ids]))
    by_surface: Problems = defaultdict(lambda: ([], []))
    for record in records:
        if record.problem_id in held_ids:
            features_SF, labels_S = surface([record])
            by_surface[record.problem_id][0].extend(fitted(features_SF).tolist())
            by_surface[record.problem_id][1].extend((labels_S > 0.5).tolist())

    names = sorted(held_ids)
    ours, peer = over(by_prm, names), over(by_surface, names)
    gap = over(by_prm, names, by_surface)
    good, labels = joined(by_prm, names)
    yield {"name": "prm800k: auroc", "ours": ours, "peer": peer, "peer_name": SURFACE, "unit": "AUROC of held-out steps",
           "ratio": round(ours[0] / peer[0], 3), "target": 1.0, "pairs": 1, "difference": gap,
           "brier_skill": round(brier_skill((1 / (1 + np.exp(-np.array(good)))).tolist(), labels), 3),
           "problems": len(names), "steps": len(labels)}  # fmt: skip
    ledger = read_json(run / "ledger.json")
    trained, seconds = ledger["counts"][stage["name"]]["prm"]["trained"], ledger["seconds"][stage["name"]]
    alone = sum(len(r.prompt_ids) + len(r.completion_ids) for r in records if r.problem_id not in held_ids)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    curve = [(r["step"], round(r["prm/loss"], 3)) for r in rows if "prm/loss" in r]
    yield {"name": "prm800k: training", "seconds": round(seconds), "tokens_per_second": round(trained / seconds),
           "solution_tokens_per_second": round(alone * stage["epochs"] / seconds), "loss": curve}  # fmt: skip


def surface(records: Sequence[StepLabels]) -> tuple[np.ndarray, np.ndarray]:
    """[S, 3] number of the step, its characters, whether it holds "="; and the labels."""
    steps = [
        (i, len(text), "=" in text, label)
        for r in records
        for i, (text, label) in enumerate(zip(r.completions, r.labels, strict=True))
        if label == label
    ]
    table = np.array(steps, dtype=float).reshape(-1, 4)
    return table[:, :3], table[:, 3]


def logistic_regression(features_SF: np.ndarray, labels_S: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Maximum likelihood by Newton's method on standardised features; returns the log-odds function."""
    mean, spread = features_SF.mean(0), features_SF.std(0) + 1e-9

    def design(some_SF: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(len(some_SF)), (some_SF - mean) / spread])

    x_SF, weights_F = design(features_SF), np.zeros(features_SF.shape[1] + 1)
    for _ in range(30):
        p_S = 1 / (1 + np.exp(-x_SF @ weights_F))
        hessian = (x_SF * (p_S * (1 - p_S))[:, None]).T @ x_SF
        weights_F += np.linalg.solve(hessian, x_SF.T @ (labels_S - p_S))
    return lambda some_SF: design(some_SF) @ weights_F


def over(problems: Problems, names: list[str], less: Problems | None = None) -> tuple[float, float, float]:
    """AUROC over the steps of all problems (less that of other scores), with its interval over problems."""

    def statistic(numbers: np.ndarray) -> float:
        chosen = [names[int(i)] for i in numbers]
        return auroc(*joined(problems, chosen)) - (auroc(*joined(less, chosen)) if less else 0.0)

    all_of = np.arange(len(names))
    low, high = bootstrap(all_of, statistic, num_resamples=200)
    return round(statistic(all_of), 3), round(low, 3), round(high, 3)


def joined(problems: Problems, names: Sequence[str]) -> tuple[list[float], list[bool]]:
    return [s for n in names for s in problems[n][0]], [y for n in names for y in problems[n][1]]


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        for row in measure(Path(folder)):
            print(json.dumps(row), flush=True)
