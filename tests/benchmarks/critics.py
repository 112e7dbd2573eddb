"""First errors found by the models of a finished run of configs/critics.yaml: python -m tests.benchmarks.critics runs/critics

The policy that the run labelled solves the run's test problems, one sampled chain each; every line of a chain has an exact
truth (reasoner/data/working.py). Chains that are right as far as they go, and end with no right answer, are left out. A critic
is read in two ways: where its greedy critique puts the first error, and by the chance of `right` at each step's verdict.
Thresholds are set on chains of the set `calibration`. Prints Markdown: ProcessBench's F1 in %, with 95 % intervals over
solutions, and what each model was trained on and reads, in tokens.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
from reasoner.tree import Tree

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
    read: float  # tokens of a solution that go through the model


def engine_of(model: Path | str, prompting: Prompting, ledger: Ledger) -> LocalEngine:
    return LocalEngine(load_model(str(model)).eval(), prompting.eos_ids, SLOTS, CONTEXT, ledger=ledger)


def solutions(problems: Sequence[Any], policy: str, prompting: Prompting) -> tuple[list[Solution], int]:
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


CRITICS = ("critic", "critic_continued", "critic_rl")
READERS: dict[str, dict[str, Reader]] = {
    **{name: {"critique": said, "likelihood": by_likelihood} for name in CRITICS},
    "prm": {"score": by_prm},
    "prm_longer": {"score": by_prm},
}


def f1(rows: np.ndarray) -> float:
    return 100 * first_error_f1(rows[:, 0], rows[:, 1]).f1


def cell(rows: np.ndarray, statistic: Callable[[np.ndarray], float], sign: str = "") -> str:
    low, high = bootstrap(rows, statistic, num_resamples=RESAMPLES)
    return f"{statistic(rows):{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def table(rows: Sequence[Row], truth: Sequence[int], spent: Callable[[str], str], beside: int) -> str:
    """One line a row; the difference is to the row number `beside`, paired by solution."""
    lines = [
        "| model | read by | F1 | of wrong ones found | right ones let be | F1 beside the first critic's, read alike "
        "| tokens of training | tokens read and written a solution |",
        "|" + "---|" * 8,
    ]
    first = {row.reading: row.predicted for row in reversed(rows) if row.model == rows[beside].model}
    for row in rows:
        pairs = np.array([row.predicted, truth]).T
        found = first_error_f1(row.predicted, truth)
        other = first.get(row.reading, rows[beside].predicted)
        three = np.array([row.predicted, truth, other]).T
        gain = "" if other is row.predicted else cell(three, lambda r: f1(r[:, :2]) - f1(r[:, [2, 1]]), "+")
        lines.append(
            f"| {row.model} | {row.reading} | {cell(pairs, f1)} | {100 * found.error_accuracy:.1f} "
            f"| {100 * found.correct_accuracy:.1f} | {gain} | {spent(row.model)} | {row.read:.0f} |"
        )
    return "\n".join(lines)


def spent_by(counts: dict[str, dict[str, dict[str, float]]], stage: str) -> str:
    """Tokens of a stage from the ledger: trained on, and drawn where any were."""
    trained, drawn, prompts = (
        sum(of_model.get(key, 0) for of_model in counts[stage].values()) for key in ("trained", "decoded", "prefilled")
    )  # fmt: skip
    return f"{trained:,.0f}" + (f", prompts {prompts:,.0f}, drawn {drawn:,.0f}" if drawn else "")


def main(run: Path) -> None:
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
        solutions(some, policy, prompting) for some in (apart, problems["test"])
    )
    truth = [s.first_error for s in test]
    rows = []
    for model, readers in READERS.items():
        for reading, reader in readers.items():
            ledger = Ledger()
            with ledger.stage("read"):
                predicted = reader(run / "models" / model / "model", prompting, calibration, test, ledger)
            read = sum(map(ledger.total, ("prefilled", "decoded", "scored")))
            of = len(test) + (len(calibration) if reader is not said else 0)
            rows.append(Row(model, reading, predicted, read / of))
    wrong = sum(at != NO_ERROR for at in truth)
    print(
        f"{len(test)} test solutions, {wrong} of them with an error; {left_out} left out; {len(calibration)} calibrate.\n"
    )
    counts = json.loads((run / "ledger.json").read_text())["counts"]
    print(table(rows, truth, partial(spent_by, counts), beside=0))
    unread = {r.model: sum(p < NO_ERROR for p in r.predicted) for r in rows if r.reading == "critique"}
    print("\nunreadable critiques: " + ", ".join(f"{model} {n}" for model, n in unread.items()))
    share = math.fsum(p == NO_ERROR for p in truth) / len(truth)
    print(f"right solutions: {100 * share:.1f} %")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
