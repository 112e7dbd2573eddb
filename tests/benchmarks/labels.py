"""PRMs by the source of their step labels, and the tokens that the labels cost: `python -m tests.benchmarks.labels`.

A small model learns sums written out in 16 steps (modulo 100, a letter names each term) for a while, and solves
problems at the first temperature at which it errs in a quarter of them, so that its errors are its own. The same
solutions are labelled by each source; a PRM is trained on each set of labels and finds first errors in other
solutions, whose truth is known exactly. Its threshold is set on a third set. Continuations stop at a state's first
success, or once the interval has decided; places fix the noise, so that all sources draw the same continuations at
the same state. Rows are kept in the folder as they end: started again, it goes on.
With --oracle: the labels themselves against the truth, of a reasoner of known step values (tests/markov).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from reasoner.config import validate
from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Sampling
from reasoner.ledger import Ledger
from reasoner.metrics.reward_quality import best_threshold, brier_skill, first_below, first_error_f1
from reasoner.pipeline import RunConfig, run
from reasoner.policy.heads import ScoreNet
from reasoner.policy.labelled import from_steps
from reasoner.policy.models import load_model, load_tokenizer
from reasoner.records import StepLabels
from reasoner.scoring.outcome import judge
from reasoner.scoring.prm import score_steps
from reasoner.search.chain import fan
from reasoner.search.first_error import BisectConfig, bisect
from reasoner.search.grow import BranchPolicy, Growth, grow
from reasoner.search.probe import ProbeConfig, probe
from reasoner.signals.consensus import agrees, with_votes
from reasoner.signals.step_labels import NO_ERROR, StepLabelConfig, step_labels
from reasoner.trainers.loop import OptimizerConfig, Session
from reasoner.trainers.reward_model import RewardModelStage, train_reward_model
from reasoner.tree import ROOT, Counts, Problem, Tree
from tests.benchmarks.problem_kinds import STEPS, long_sum

sys.path.insert(0, str(Path(__file__).parent.parent))
import markov

N = 8
TEMPLATE = "{prompt}=\n"
MAX_TOKENS = 12 * STEPS
TEMPERATURES, WANTED = tuple(1 + 0.1 * i for i in range(11)), 0.75


def success_drawn(drawn: Counts, ends_right: bool, config: ProbeConfig) -> bool:
    """Stop at a success among the draws: of Math-Shepherd's labels, which don't know the chain's own end."""
    return drawn.c > 0


class Source(NamedTuple):
    """How states are continued, how counts become labels, and whether an exact judge has to agree."""

    policy: Callable[[], BranchPolicy]
    kind: str
    judged: bool = False


PEER, CHEAP = "every step of wrong solutions, n = 8", "bisection, n = 8"
SOURCES: dict[str, Source] = {
    CHEAP: Source(lambda: bisect(BisectConfig(num_rollouts=N, need_mixed=False)), "spread"),
    "consensus of bisection and an exact judge": Source(
        lambda: bisect(BisectConfig(num_rollouts=N, need_mixed=False)), "spread", True
    ),
    PEER: Source(lambda: probe(ProbeConfig(num_continuations=N, stop="first_success")), "spread"),
    "hard, every step, n = 8": Source(
        lambda: probe(ProbeConfig(num_continuations=N, stop=f"{success_drawn.__module__}:success_drawn")), "hard"
    ),
    "soft, every step, n <= 8, decided at 0.25": Source(
        lambda: probe(ProbeConfig(num_continuations=N, stop="decided", threshold=0.25, level=0.9)), "soft"
    ),
}  # fmt: skip
EXACT = "exact"


# ------------------------------------------------------------------ the truth


def truth(problem: Problem, steps: Sequence[str]) -> int:
    """The first wrong step: until then each line is the one that the working has; a missing rest is the last step's fault."""
    _, working = long_sum(int(problem.id.rpartition("/")[2]))
    due = working.split("\n")
    wrong = next((i for i, s in enumerate(steps) if i >= len(due) or s.strip() != due[i]), NO_ERROR)
    return len(steps) - 1 if wrong == NO_ERROR and len(steps) < len(due) else wrong


# ------------------------------------------------------------------ solutions, labels, reward models


@dataclass
class World:
    """The model, how it is prompted, and where all runs are kept."""

    folder: Path
    model_path: str
    prompting: Prompting
    model: Any
    temperature: float = TEMPERATURES[0]

    def steps(self, tree: Tree) -> list[str]:
        """The steps of the solution, which is node 1."""
        ends, ids = tree.nodes[1].step_ends, tree.nodes[1].token_ids
        starts = [0, *(e + 1 for e in ends[:-1])]
        return [self.prompting.decode(ids[a : b + 1]) for a, b in zip(starts, ends, strict=True)]

    def first_error(self, tree: Tree) -> int:
        return truth(tree.problem, self.steps(tree))

    def grown(self, trees: list[Tree], policy: BranchPolicy, seed: int) -> int:
        """Tokens decoded to grow and judge the trees."""
        ledger = Ledger()
        with ledger.stage("draw"):
            engine = LocalEngine(self.model, [self.prompting.eos_id], 256, 64 + MAX_TOKENS, ledger=ledger)

            def observe(ready: Sequence[Tree]) -> None:
                judge(ready, self.prompting.decode)

            grow(
                trees,
                engine,
                policy,
                Growth(self.prompting.mark_steps, MAX_TOKENS, Sampling(self.temperature), seed),
                observe=observe,
            )
        return int(ledger.total("decoded"))

    def solutions(self, start: int, count: int) -> list[Tree]:
        problems = [long_sum(start + i)[0] for i in range(count)]
        trees = [Tree.of_prompt(p, self.prompting.prompt_ids(p.prompt)) for p in problems]
        self.grown(trees, fan(1), seed=start)
        return trees


def learned(folder: Path, steps: int, size: int) -> World:
    """The model after a short fine-tuning on written solutions."""
    demonstrations = folder / "demonstrations.jsonl"
    if not demonstrations.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        rows = [(p.prompt, p.reference["answer"], working) for p, working in map(long_sum, range(size))]
        demonstrations.write_text(
            "".join(json.dumps({"prompt": p, "answer": a, "solution": s}) + "\n" for p, a, s in rows)
        )
    raw = {
        "out": str(folder / "policy"),
        "prompt": {"template": TEMPLATE},
        "problems": {"demonstrations": [{"name": "jsonl", "path": str(demonstrations), "size": size}]},
        "stages": [
            {"kind": "init", "hidden_size": 64, "num_layers": 3, "num_heads": 2, "num_key_value_heads": 1,
             "intermediate_size": 224, "initializer_range": 0.12},
            {"kind": "sft", "model": "base", "batch_size": 32, "max_steps": steps,
             "optimizer": {"name": "muon", "lr": 0.005}},
        ],
    }  # fmt: skip
    run(validate(RunConfig, raw, "benchmark"))
    path = str(folder / "policy" / "models" / "sft" / "model")
    prompting = Prompting(load_tokenizer(path), PromptConfig(template=TEMPLATE))
    return World(folder, path, prompting, load_model(path).eval())


def accuracy(trees: list[Tree]) -> float:
    return sum(t.verdicts[1].status == "correct" for t in trees) / len(trees)


def exact_labels(world: World, trees: list[Tree]) -> list[StepLabels]:
    """1 before the first wrong step, 0 from there on."""
    found = []
    for tree in trees:
        steps, at = world.steps(tree), world.first_error(tree)
        labels = [float(at == NO_ERROR or i < at) for i in range(len(steps))]
        found.append(
            StepLabels(tree.problem.id, tree.problem.prompt, steps, labels, list(tree.nodes[ROOT].token_ids),
                       list(tree.nodes[1].token_ids), list(tree.nodes[1].step_ends), kind=EXACT, first_errors=[at])
        )  # fmt: skip
    return found


def labels_of(world: World, solutions: list[Tree], source: Source, seed: int) -> tuple[list[StepLabels], int]:
    """A record for each solution that is kept, and the tokens that were decoded for them all."""
    trees = [Tree(t.problem, t.nodes[:2], {1: t.verdicts[1]}) for t in solutions]
    tokens = world.grown(trees, source.policy(), seed)
    # the solution itself is the first leaf
    records = [
        next(iter(step_labels([t], StepLabelConfig(kind=source.kind), world.prompting.decode))) for t in trees
    ]
    if source.judged:
        records = list(with_votes(records, lambda prompts, steps: [world.first_error(t) for t in trees]))
        records = [r for r in records if agrees(r)]
    return records, tokens


def prm_of(world: World, name: str, records: list[StepLabels], epochs: float) -> ScoreNet:
    out = world.folder / "prm" / name.replace(" ", "_").replace(",", "").replace("<=", "")
    if not (out / "model").is_dir():
        config = RewardModelStage(
            epochs=epochs,
            reads="likelihood",
            batch_size=16,
            holdout=0,
            tokens_per_batch=4096,
            optimizer=OptimizerConfig(lr=0.001),
        )
        session = Session(out, Ledger(), checkpoints=out / "checkpoints")
        with session.ledger.stage("prm"):
            train_reward_model(world.model_path, from_steps(records, 4096), config, session, "prm")
    return ScoreNet.load(out / "model").eval()


def quality(world: World, net: ScoreNet, calibration: list[Tree], test: list[Tree]) -> dict:
    """First-error F1 and Brier skill over the base rate, on solutions that neither training nor threshold saw."""
    scores, truths = [], []
    for some in (calibration, test):
        for tree in some:
            tree.scores.clear()
        score_steps(net, some, "prm")
        scores.append([t.scores["prm"][1] for t in some])
        truths.append([world.first_error(t) for t in some])
    threshold = best_threshold(scores[0], truths[0]).threshold
    found = first_error_f1([first_below(s, threshold) for s in scores[1]], truths[1])
    flat = [
        (p, at == NO_ERROR or i < at)
        for s, at in zip(scores[1], truths[1], strict=True)
        for i, p in enumerate(s)
    ]
    return {"first_error_f1": round(found.f1, 3), "on_wrong": round(found.error_accuracy, 3),
            "on_right": round(found.correct_accuracy, 3), "threshold": round(threshold, 3),
            "brier_skill": round(brier_skill(*map(list, zip(*flat, strict=True))), 3)}  # fmt: skip


def main(given: argparse.Namespace) -> None:
    folder = Path(given.folder or tempfile.mkdtemp())
    world = learned(folder, given.steps, 16 * given.steps)
    kept = folder / "rows.jsonl"
    rows = {r["source"]: r for r in map(json.loads, kept.read_text().splitlines())} if kept.is_file() else {}
    for world.temperature in TEMPERATURES:
        if accuracy(world.solutions(40_000_000, 200)) <= WANTED:
            break
    many = world.solutions(10_000_000, given.many)
    solutions, calibration, test = (
        many[: given.solutions],
        *(world.solutions(s, given.test) for s in (20_000_000, 30_000_000)),
    )
    wrong_steps = sum(world.first_error(t) != NO_ERROR for t in test)
    print(json.dumps({"policy_accuracy": round(accuracy(many), 3),
                "temperature": round(world.temperature, 1), "solutions": len(solutions), "test": len(test),
                      "test_with_error": wrong_steps}), flush=True)  # fmt: skip

    def finish(name: str, records: list[StepLabels], tokens: int, epochs: float, of: int) -> None:
        began = time.perf_counter()
        found = quality(world, prm_of(world, name, records, epochs), calibration, test)
        labels = {t.problem.id: world.first_error(t) for t in many[:of]}
        same = sum(r.first_errors[0] == labels[r.problem_id] for r in records) / len(records)
        rows[name] = {"source": name, **found, "labels_true": round(same, 3), "kept": len(records), "of": of,
                      "tokens_per_solution": round(tokens / of, 1), "seconds": round(time.perf_counter() - began)}  # fmt: skip
        with open(kept, "a", encoding="utf-8") as file:
            file.write(json.dumps(rows[name]) + "\n")

    def show(name: str, made: Callable[[], tuple[list[StepLabels], int]], epochs: float, of: int) -> None:
        if name not in rows:
            finish(name, *made(), epochs, of)
        print(json.dumps(rows[name]), flush=True)

    for name, source in SOURCES.items():
        show(name, lambda source=source: labels_of(world, solutions, source, 1), given.epochs, len(solutions))
    show(EXACT, lambda: (exact_labels(world, solutions), 0), given.epochs, len(solutions))
    show(f"{EXACT}, {len(many)} solutions", lambda: (exact_labels(world, many), 0), given.epochs, len(many))
    ours, peer = rows[CHEAP], rows[PEER]
    print(json.dumps({
        "name": "labels: tokens", "ours": ours["tokens_per_solution"], "peer": peer["tokens_per_solution"],
        "peer_name": PEER, "unit": "tokens per solution", "target": 2.0, "pairs": 1,
        "ratio": round(peer["tokens_per_solution"] / ours["tokens_per_solution"], 2),
        "first_error_f1": [ours["first_error_f1"], peer["first_error_f1"]],
    }))  # fmt: skip


# ------------------------------------------------------------------ a reasoner of known step values

ERROR, RECOVERY, PROBLEMS, CHAINS = 0.08, 0.01, 80, 2


def oracle() -> None:
    """First-error F1 of the labels themselves, and their tokens, without any model."""
    for name, source in SOURCES.items():
        engine = markov.MarkovEngine(STEPS, ERROR, RECOVERY)
        trees = markov.markov_trees(PROBLEMS)
        growth = Growth(markov.mark_steps, STEPS + 1)
        grow(trees, cast(Any, engine), fan(CHAINS), growth, observe=markov.judge)
        alone = [
            Tree(t.problem, [t.nodes[ROOT], node], {1: t.verdicts[i]})
            for t in trees
            for i, node in enumerate(t.nodes[1:], 1)
        ]
        alone = [
            replace(t, problem=replace(t.problem, id=f"{t.problem.id} {i}")) for i, t in enumerate(alone)
        ]
        spent = engine.decoded
        grow(alone, cast(Any, engine), source.policy(), growth, observe=markov.judge)
        records = [
            next(
                iter(step_labels([t], StepLabelConfig(kind=source.kind), lambda ids: " ".join(map(str, ids))))
            )
            for t in alone
        ]
        if source.judged:
            records = [
                r for r in with_votes(records, lambda prompts, steps: list(map(_bad, steps))) if agrees(r)
            ]
        found = first_error_f1([r.first_errors[0] for r in records], [_bad(r.completions) for r in records])
        print(json.dumps({"source": name, "first_error_f1": round(found.f1, 3), "on_wrong": round(found.error_accuracy, 3),
                          "on_right": round(found.correct_accuracy, 3), "kept": len(records), "of": len(alone),
                          "tokens_per_solution": round((engine.decoded - spent) / len(alone), 1)}), flush=True)  # fmt: skip


def _bad(steps: Sequence[str]) -> int:
    return next((i for i, step in enumerate(steps) if str(markov.BAD) in step.split()), NO_ERROR)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the model, the PRMs and the rows are kept")
    parser.add_argument("--steps", type=int, default=800, help="updates of the fine-tuning")
    parser.add_argument("--solutions", type=int, default=300, help="solutions that every source labels")
    parser.add_argument(
        "--many", type=int, default=3000, help="solutions with exact labels, which cost nothing"
    )
    parser.add_argument(
        "--test", type=int, default=500, help="solutions to test on, and as many for the threshold"
    )
    parser.add_argument("--epochs", type=float, default=3, help="passes over each set of labels")
    parser.add_argument("--oracle", action="store_true", help="a reasoner of known step values, no model")
    chosen = parser.parse_args()
    oracle() if chosen.oracle else main(chosen)
