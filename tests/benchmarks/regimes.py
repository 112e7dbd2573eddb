"""Where step-level supervision pays: accuracy at equal generated tokens on a policy that is solved exactly.

`python -m tests.benchmarks.regimes [--out FOLDER] [--seeds N]`

Cells are chain length x verifier noise x budget x pass rate at the start (regime_policy says what a chain is). Every
method may generate the same tokens, those of a PRM's labels counted; accuracy is the exact pass rate of the policy
afterwards. Each method has its best rate in each cell: the one whose interval over development seeds ends highest below.
Their policies and draws are others than those that are reported. Differences are from GRPO, paired by seed, with 95 % intervals
(Student's t). Beside it stands signal : noise of a round's gradient at the start: its part along the exact gradient, by
the root of the mean square of the rest, which holds noise and bias. Prints a row a cell, then JSON lines; writes
cells.jsonl and regimes.svg with --out. A few minutes of one core.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.benchmarks.regime_map import cell_map
from tests.benchmarks.regime_policy import (
    METHODS,
    Method,
    Task,
    exact_gradient,
    gradient,
    pass_rate,
    probabilities,
    start_logits,
)  # fmt: skip

LENGTHS = (4, 16, 64)
FLIPS = (0.0, 0.1, 0.3)
STARTS = (0.02, 0.2, 0.6)
BUDGETS = (1_024, 4_096, 16_384)
RATES = tuple(2.0**k for k in range(11))  # of plain gradient ascent, at the start
FLOOR = 0.05  # falling as a cosine to that share of it, as the trainers' do by default
DEVELOPMENT = range(1000, 1016)
PEER = "GRPO"
LEAST = 0.5  # points of difference that count
ROUNDS, COPIES, WARM_UP = 8, 16, 8  # gradients behind signal : noise are ROUNDS · COPIES a seed
# two-sided, by number of seeds
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 8: 2.36, 10: 2.26, 12: 2.20, 16: 2.13}  # fmt: skip


class Interval(NamedTuple):
    mean: float
    half: float

    @property
    def verdict(self) -> int:
        """1 above 0 beyond the interval, -1 below it, 0 neither, or so little that it tells nothing."""
        return 0 if abs(self.mean) <= max(self.half, LEAST) else int(math.copysign(1, self.mean))


class Cell(NamedTuple):
    """What one method came to in one cell; accuracies in percent, of each reported seed."""

    task: Task
    budget: int
    method: str
    rate: float
    accuracies: list[float]
    signal: float


def interval(values: Sequence[float]) -> Interval:
    half = T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(statistics.mean(values), half)


def difference(ours: Cell, peer: Cell) -> Interval:
    """In points, paired by seed."""
    return interval([a - b for a, b in zip(ours.accuracies, peer.accuracies, strict=True)])


def train(
    method: Method, task: Task, logits_BHA: np.ndarray, rates_B: np.ndarray, budget: int, seed: int
) -> np.ndarray:
    """Pass rates (B,) of runs side by side that generate `budget` tokens each; a round that would pass it is not drawn."""
    rng = np.random.default_rng(seed)
    logits = logits_BHA.copy()
    critic = method.critic(logits, task, rng, budget) if method.critic else None
    spent_B = np.zeros(len(logits)) + (critic.tokens_B if critic else 0)
    while True:
        p = probabilities(logits)
        drawn = method.draw(p, task, rng)
        rates = rates_B * (FLOOR + (1 - FLOOR) * 0.5 * (1 + np.cos(np.pi * np.minimum(1, spent_B / budget))))
        spent_B = spent_B + drawn.tokens
        if not (is_left := spent_B <= budget).any():
            return pass_rate(logits)
        found = gradient(drawn, method.advantages(drawn, critic(drawn, p) if critic else None), p)
        if critic:
            critic.learn(drawn)
        logits = logits + (rates * is_left)[:, None, None] * found


def pass_rates(
    method: Method, task: Task, seeds: Sequence[int], rates: Sequence[float], budget: int, noise: int
) -> np.ndarray:
    """(rate, seed)."""
    logits = np.stack([start_logits(task, seed) for _ in rates for seed in seeds])
    found = train(method, task, logits, np.repeat(rates, len(seeds)), budget, noise)
    return found.reshape(len(rates), len(seeds))


def signal(method: Method, task: Task, seeds: Sequence[int], noise: int) -> float:
    """Signal : noise of one round's gradient at the start, the mean over seeds; a PRM's labels are drawn anew in each copy."""
    rng = np.random.default_rng(noise)
    logits = np.stack([start_logits(task, seed) for seed in seeds for _ in range(COPIES)])
    p = probabilities(logits)
    critic = method.critic(logits, task, rng, BUDGETS[1]) if method.critic else None
    for _ in range(WARM_UP if critic else 0):
        critic.learn(method.draw(p, task, rng))
    found = []
    for _ in range(ROUNDS):
        drawn = method.draw(p, task, rng)
        found.append(gradient(drawn, method.advantages(drawn, critic(drawn, p) if critic else None), p))
    return float(np.mean([signal_to_noise(g, exact) for g, exact in _by_seed(np.stack(found), logits)]))


def _by_seed(gradients_RBHA: np.ndarray, logits_BHA: np.ndarray):
    exact = exact_gradient(logits_BHA)
    for b in range(0, len(logits_BHA), COPIES):
        yield gradients_RBHA[:, b : b + COPIES].reshape(-1, exact[b].size), exact[b].ravel()


def signal_to_noise(gradients: np.ndarray, exact: np.ndarray) -> float:
    """The mean part along the exact gradient, by the root of the mean square of what is left of each; inputs (n, d), (d,)."""
    along = exact / np.linalg.norm(exact)
    part = float((gradients @ along).mean())
    rest = gradients - part * along
    return part / math.sqrt(float((rest**2).sum(1).mean()))


def cells_of(name: str, task: Task, seeds: Sequence[int]) -> list[Cell]:
    """A method's cells of one task, over the budgets; its rates chosen on DEVELOPMENT alone."""
    method = METHODS[name]
    key = 100 * (100 * list(METHODS).index(name) + TASKS.index(task))  # other draws for each
    snr = signal(method, task, seeds, 30_000_000 + key)
    found = []
    for i, budget in enumerate(BUDGETS):
        tried = pass_rates(method, task, DEVELOPMENT, RATES, budget, 10_000_000 + key + i)
        found_at = [interval(of_rate.tolist()) for of_rate in tried]
        rate = RATES[int(np.argmax([mean - half for mean, half in found_at]))]
        reported = pass_rates(method, task, seeds, [rate], budget, 20_000_000 + key + i)[0]
        found.append(Cell(task, budget, name, rate, (100 * reported).tolist(), snr))
    return found


TASKS = [Task(length, flip, start) for length, flip, start in itertools.product(LENGTHS, FLIPS, STARTS)]


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's; ties in the order in which they come."""
    ranks = [np.argsort(np.argsort(values)) for values in (x, y)]
    return float(np.corrcoef(*ranks)[0, 1])


def by_cell(cells: Sequence[Cell]) -> dict[tuple[Task, int], dict[str, Cell]]:
    found: dict[tuple[Task, int], dict[str, Cell]] = {}
    for cell in cells:
        found.setdefault((cell.task, cell.budget), {})[cell.method] = cell
    return found


def table(cells: Sequence[Cell]) -> str:
    """A row a cell: GRPO's accuracy and each other's difference from it, bold beyond its interval; signal : noise below."""
    others = [name for name in METHODS if name != PEER]
    lines = [
        "| steps | noise | start % | tokens | GRPO % (signal : noise) | " + " | ".join(others) + " |",
        "|---" * (5 + len(others)) + "|",
    ]
    for (task, budget), of in by_cell(cells).items():
        peer = of[PEER]
        told = []
        for name in others:
            mean, half = found = difference(of[name], peer)
            mark = "**" if found.verdict else ""
            told.append(f"{mark}{mean:+.1f} ± {half:.1f}{mark} ({of[name].signal:.2f})")
        accuracy = interval(peer.accuracies)
        lines.append(
            f"| {task.length} | {task.flip:g} | {100 * task.start:g} | {budget:,} | {accuracy.mean:.1f} ± {accuracy.half:.1f} "
            f"({peer.signal:.2f}) | " + " | ".join(told) + " |"
        )
    return "\n".join(lines)


def summary(cells: Sequence[Cell]) -> list[dict]:
    """A JSON line a method: cells won and lost beyond their intervals, and whether signal : noise tells which."""
    grouped = by_cell(cells)
    rows = []
    for name in METHODS:
        if name == PEER:
            continue
        pairs = [(of[name], of[PEER]) for of in grouped.values()]
        found = [difference(*pair) for pair in pairs]
        ours, peer = (statistics.mean(interval(p[i].accuracies).mean for p in pairs) for i in (0, 1))
        gain = [math.log(max(a.signal, 1e-3) / b.signal) for a, b in pairs]
        rows.append({
            "name": f"regimes: {name}", "ours": round(ours, 1), "peer": round(peer, 1), "peer_name": PEER,
            "unit": f"% right, mean of {len(pairs)} cells", "ratio": round(ours / peer, 3), "target": None,
            "won": sum(f.verdict > 0 for f in found), "lost": sum(f.verdict < 0 for f in found), "cells": len(pairs),
            "rank_correlation_with_signal": round(rank_correlation(gain, [f.mean for f in found]), 2),
        })  # fmt: skip
    return rows


def save(cells: Sequence[Cell], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rows = [{**cell._asdict(), "task": cell.task._asdict()} for cell in cells]
    (out / "cells.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    panels = {
        name: {key: difference(of[name], of[PEER]) for key, of in by_cell(cells).items()}
        for name in METHODS
        if name != PEER
    }
    cell_map(out / "regimes.svg", panels, LENGTHS, STARTS, FLIPS, BUDGETS)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for cells.jsonl and regimes.svg")
    parser.add_argument("--seeds", type=int, default=12, choices=sorted(T_95), help="reported seeds")
    arguments = parser.parse_args()
    cells = []
    for i, task in enumerate(TASKS, start=1):
        print(f"{i}/{len(TASKS)} {task}", file=sys.stderr, flush=True)
        cells += [cell for name in METHODS for cell in cells_of(name, task, range(arguments.seeds))]
    print(table(cells))
    if arguments.out:
        save(cells, arguments.out)
    for row in summary(cells):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
