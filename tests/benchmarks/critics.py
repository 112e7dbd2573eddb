"""First errors found by the models of a finished run of configs/critics.yaml: python -m tests.benchmarks.critics runs/critics

The policy that the run labelled solves the run's test problems, one sampled chain each; every line of a chain has an exact
truth (reasoner/data/working.py). Chains that are right as far as they go, and end with no right answer, are left out. A critic
is read in two ways: where its greedy critique puts the first error, and by the chance of `right` at each step's verdict.
Thresholds are set on chains of the set `calibration`. Prints Markdown: ProcessBench's F1 in %, with 95 % intervals over
solutions, and what each model was trained on and reads, in tokens. Rows are kept in the run's folder as they end: started
again, it goes on. `--read critique score` leaves out the chances, which take most of the time; `--test 500 --calibration 200`
takes so many problems, spread over the sets. Models that the run has not made yet are left out and named.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reasoner.config import read_yaml, validate
from reasoner.data.prompting import Prompting, load_prompting
from reasoner.data.sources import load_items
from reasoner.engine.local import LocalEngine
from reasoner.ledger import Ledger
from reasoner.metrics.intervals import bootstrap
from reasoner.metrics.reward_quality import best_threshold, first_below, first_error_f1
from reasoner.pipeline import RunConfig
from reasoner.policy.heads import ScoreNet
from reasoner.policy.models import load_model
from reasoner.scoring.critique import CritiqueScores, critic, step_scorer
from reasoner.scoring.outcome import judge
from reasoner.scoring.prm import score_steps
from reasoner.search.chain import fan
from reasoner.search.grow import Growth, grow
from reasoner.signals.consensus import working
from reasoner.signals.step_labels import NO_ERROR
from reasoner.tree import Problem, Tree

MAX_TOKENS, CONTEXT, SLOTS = 80, 512, 256
LONGEST_CRITIQUE = 128
RESAMPLES = 2000


class Solution(NamedTuple):
    """A chain of the policy (node 1 of its tree) with the place of its first wrong step, from 0; NO_ERROR for none."""

    tree: Tree
    steps: list[str]
    first_error: int


class Row(NamedTuple):
    """A model, how it is read, and where it puts the first errors of the test solutions."""

    model: str
    reading: str
    predicted: list[int]
    tokens: float  # that go through the model for a solution


def engine_of(model: Path | str, prompting: Prompting, ledger: Ledger) -> LocalEngine:
    return LocalEngine(load_model(str(model)).eval(), prompting.eos_ids, SLOTS, CONTEXT, ledger=ledger)


def solutions(problems: Sequence[Problem], policy: str, prompting: Prompting) -> tuple[list[Solution], int]:
    """A sampled chain of each problem with its truth, and how many were left out for having none."""
    trees = [Tree.of_prompt(p, prompting.prompt_ids(p.prompt)) for p in problems]
    ledger = Ledger()
    with ledger.stage("solve"):
        grow(trees, engine_of(policy, prompting, ledger), fan(1), Growth(prompting.mark_steps, MAX_TOKENS))
    judge(trees, prompting.decode)
    found = []
    for tree in trees:
        steps = prompting.step_texts(tree.nodes[1].token_ids, tree.nodes[1].step_ends)
        (at,) = working([tree.problem.prompt], [steps])
        if at != NO_ERROR or tree.verdicts[1].status == "correct":
            found.append(Solution(tree, steps, at))
    return found, len(trees) - len(found)


# calibration and test solutions -> first errors of the test's
Reader = Callable[[Path, Prompting, list[Solution], list[Solution], Ledger], list[int]]


def said(
    model: Path, prompting: Prompting, calibration: list[Solution], test: list[Solution], ledger: Ledger
) -> list[int]:
    """Where the greedy critique puts it."""
    ask = critic(engine_of(model, prompting, ledger), prompting.bare(), max_tokens=LONGEST_CRITIQUE)
    votes = ask([s.tree.problem.prompt for s in test], [s.steps for s in test])
    return [of_one[0] for of_one in votes]


def thresholded(
    scores: Callable[[list[Solution]], list[list[float]]], calibration: list[Solution], test: list[Solution]
) -> list[int]:
    threshold = best_threshold(scores(calibration), [s.first_error for s in calibration]).threshold
    return [first_below(of_one, threshold) for of_one in scores(test)]


def by_likelihood(
    model: Path, prompting: Prompting, calibration: list[Solution], test: list[Solution], ledger: Ledger
) -> list[int]:
    """The first step whose verdict `right` is less likely than the threshold."""
    config = validate(CritiqueScores, {"max_tokens": LONGEST_CRITIQUE}, "benchmark")
    scorer = step_scorer(engine_of(model, prompting, ledger), prompting.bare(), config)
    return thresholded(
        lambda some: scorer([s.tree.problem.prompt for s in some], [s.steps for s in some]), calibration, test
    )


def by_prm(
    model: Path, prompting: Prompting, calibration: list[Solution], test: list[Solution], ledger: Ledger
) -> list[int]:
    """The first step whose score is less than the threshold."""
    net = ScoreNet.load(model).eval()

    def scores(some: list[Solution]) -> list[list[float]]:
        trees = [Tree(s.tree.problem, s.tree.nodes[:2]) for s in some]
        ledger.add("prm", scored=score_steps(net, trees, "prm"))
        return [tree.scores["prm"][1] for tree in trees]

    return thresholded(scores, calibration, test)


CRITICS, PRMS = ("critic", "critic_continued", "critic_rl"), ("prm", "prm_longer")
SAID = "critique"
READERS: dict[tuple[str, str], Reader] = {
    **{(name, SAID): said for name in CRITICS},
    **{(name, "score"): by_prm for name in PRMS},
    **{(name, "likelihood"): by_likelihood for name in CRITICS},
}
BY_RL, BESIDE = ("critic_rl", SAID), ("critic_continued", "prm", "prm_longer")


def f1(rows: np.ndarray) -> float:
    return 100 * first_error_f1(rows[:, 0], rows[:, 1]).f1


def cell(rows: np.ndarray, statistic: Callable[[np.ndarray], float], sign: str = "") -> str:
    low, high = bootstrap(rows, statistic, num_resamples=RESAMPLES)
    return f"{statistic(rows):{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def table(rows: Sequence[Row], truth: Sequence[int], spent: Callable[[str], str]) -> str:
    """One line a row; differences are to the first critic's own critiques, paired by solution."""
    lines = [
        "| model | read by | F1 | found of wrong ones | right ones let be | F1 beside the first row | tokens of training "
        "| tokens a solution |",
        "|" + "---|" * 8,
    ]
    for row in rows:
        pairs = np.array([row.predicted, truth, rows[0].predicted]).T
        found = first_error_f1(row.predicted, truth)
        gain = "" if row is rows[0] else cell(pairs, lambda r: f1(r) - f1(r[:, [2, 1]]), "+")
        lines.append(
            f"| {row.model} | {row.reading} | {cell(pairs, f1)} | {100 * found.error_accuracy:.1f} "
            f"| {100 * found.correct_accuracy:.1f} | {gain} | {spent(row.model)} | {row.tokens:.0f} |"
        )
    return "\n".join(lines)


def spent_by(counts: dict[str, dict[str, dict[str, float]]], stage: str) -> str:
    """Tokens of a stage from the ledger: trained on, and drawn where any were."""
    trained, drawn, prompts = (
        sum(of_model.get(key, 0) for of_model in counts[stage].values()) for key in ("trained", "decoded", "prefilled")
    )  # fmt: skip
    return f"{trained:,.0f}" + (f", prompts {prompts:,.0f}, drawn {drawn:,.0f}" if drawn else "")


def spread(problems: Sequence[Problem], most: int) -> list[Problem]:
    """At most so many of the problems, at equal distances."""
    few = min(most, len(problems))
    return [problems[i * len(problems) // few] for i in range(few)]


def main(run: Path, num_test: int, num_calibration: int, readings: Sequence[str]) -> None:
    config = validate(RunConfig, read_yaml(run / "config.yaml"), str(run))
    policy = next(stage.model for stage in config.stages if stage.kind == "rollout")
    prompting = load_prompting(policy, config.prompt)
    problems = {
        name: [item.problem for source in config.problems[name] for item in load_items(source)]
        for name in ("test", "calibration")
    }
    tested = {p.prompt for p in problems["test"]}
    apart = [p for p in problems["calibration"] if p.prompt not in tested]
    (calibration, _), (test, left_out) = (
        solutions(some, policy, prompting)
        for some in (spread(apart, num_calibration), spread(problems["test"], num_test))
    )
    truth = [s.first_error for s in test]
    kept = run / "critics.jsonl"
    before = [Row(*json.loads(line)) for line in kept.read_text().splitlines()] if kept.is_file() else []
    rows = {(row.model, row.reading): row for row in before if len(row.predicted) == len(test)}
    asked = {key: reader for key, reader in READERS.items() if key[1] in readings}
    there = {key: reader for key, reader in asked.items() if (run / "models" / key[0] / "model").is_dir()}
    for (model, reading), reader in there.items():
        if (model, reading) in rows:
            continue
        ledger = Ledger()
        with ledger.stage("read"):
            predicted = reader(run / "models" / model / "model", prompting, calibration, test, ledger)
        tokens = sum(map(ledger.total, ("prefilled", "decoded", "scored")))
        of = len(test) + (len(calibration) if reading != SAID else 0)
        rows[model, reading] = Row(model, reading, predicted, tokens / of)
        with open(kept, "a", encoding="utf-8") as file:
            file.write(json.dumps(rows[model, reading]) + "\n")
    wrong = sum(at != NO_ERROR for at in truth)
    print(
        f"{len(test)} test solutions, {wrong} with an error; {left_out} left out; {len(calibration)} calibrate\n"
    )
    counts = json.loads((run / "ledger.json").read_text())["counts"]
    print(table([rows[key] for key in there], truth, partial(spent_by, counts)))
    for key in (key for key in there if key[0] in BESIDE and BY_RL in rows):
        pairs = np.array([rows[BY_RL].predicted, truth, rows[key].predicted]).T
        gain = cell(pairs, lambda r: f1(r) - f1(r[:, [2, 1]]), "+")
        print(f"\nF1 of the critiques of critic_rl beside {key[0]} by {key[1]}: {gain}")
    unread = {r.model: sum(p < NO_ERROR for p in r.predicted) for r in rows.values() if r.reading == SAID}
    print("\nunreadable critiques: " + ", ".join(f"{model} {n}" for model, n in unread.items()))
    print("not made yet: " + (", ".join(sorted({key[0] for key in asked.keys() - there.keys()})) or "none"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--test", type=int, default=10**9, help="most test problems")
    parser.add_argument(
        "--calibration", type=int, default=10**9, help="most problems that thresholds are set on"
    )
    every = list(dict.fromkeys(reading for _, reading in READERS))
    parser.add_argument("--read", nargs="+", choices=every, default=every, help="ways of reading")
    given = parser.parse_args()
    main(given.run, given.test, given.calibration, given.read)
