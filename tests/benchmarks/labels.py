"""What labels cost and how good they are, by source: `python -m tests.benchmarks.labels`.

A two-state Markov reasoner writes chains of 16 steps, with errors of its own and some recovery, so the truth of
every step is known. Per source one JSON line: first-error F1 of the labels against the truth, the solutions kept,
and the tokens that were decoded per solution for the labels; then what stopping at a success saves.
"""

import json
import sys
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).parent.parent))

from markov import BAD, MarkovEngine, judge, mark_steps, markov_trees

from reasoner.evals.reward_quality import first_error_f1
from reasoner.search.chain import fan
from reasoner.search.grow import Growth, grow
from reasoner.search.probe import ProbeConfig, probe
from reasoner.signals.consensus import agrees, with_votes
from reasoner.signals.step_labels import NO_ERROR, StepLabelConfig, step_labels
from reasoner.tree import ROOT, Tree

STEPS, ERROR, RECOVERY, PROBLEMS, CHAINS = 16, 0.08, 0.01, 80, 2
FULL, CHEAP = "hard, n = 8", "spread, n = 8, stop at a success"

# name -> (how states are continued, how counts become labels)
SOURCES: dict[str, tuple[ProbeConfig, str]] = {
    FULL: (ProbeConfig(num_continuations=8), "hard"),
    CHEAP: (ProbeConfig(num_continuations=8, stop="first_success"), "spread"),
    "spread, n = 4, stop at a success": (ProbeConfig(num_continuations=4, stop="first_success"), "spread"),
    "soft, decided at 0.25": (ProbeConfig(num_continuations=8, stop="decided", threshold=0.25, level=0.9), "soft"),
}


def truth(steps: list[str]) -> int:
    """The first step that is wrong."""
    return next((i for i, step in enumerate(steps) if str(BAD) in step.split()), NO_ERROR)


def exact(prompts, solutions) -> list[int]:
    return [truth(list(steps)) for steps in solutions]


def labelled(config: ProbeConfig, kind: str) -> tuple[list, float]:
    """Records of the chains from the prompt, and tokens decoded per chain for their labels."""
    engine = MarkovEngine(STEPS, ERROR, RECOVERY)
    trees = markov_trees(PROBLEMS)
    growth = Growth(mark_steps, STEPS + 1)
    grow(trees, cast(Any, engine), fan(CHAINS), growth, observe=judge)
    spent = engine.decoded
    grow(trees, cast(Any, engine), probe(config), growth, observe=judge)
    records = []
    for tree in trees:
        made = iter(step_labels([tree], StepLabelConfig(kind=kind), lambda ids: " ".join(map(str, ids))))
        records += [r for leaf, r in zip(_judged(tree), made, strict=True) if tree.nodes[leaf].parent == ROOT]
    return records, (engine.decoded - spent) / len(records)


def _judged(tree: Tree) -> list[int]:
    return [leaf for leaf in tree.leaves() if tree.step_ends(leaf)]


def row(name: str, records: list, tokens: float, num_all: int) -> dict:
    truths = [truth(r.completions) for r in records]
    found = first_error_f1([r.first_errors[0] for r in records], truths)
    return {"source": name, "first_error_f1": round(found.f1, 3), "on_wrong": round(found.error_accuracy, 3),
            "on_right": round(found.correct_accuracy, 3), "kept": len(records), "of": num_all,
            "tokens_per_solution": round(tokens, 1)}  # fmt: skip


def main() -> None:
    rows = {}
    for name, (config, kind) in SOURCES.items():
        records, tokens = labelled(config, kind)
        rows[name] = row(name, records, tokens, len(records))
        print(json.dumps(rows[name]), flush=True)
        if name == CHEAP:
            agreed = [r for r in with_votes(records, exact) if agrees(r)]
            print(json.dumps(row("consensus of the last with an exact checker", agreed, tokens, len(records))), flush=True)
    ours, peer = rows[CHEAP], rows[FULL]
    print(json.dumps({
        "name": "labels: tokens", "ours": ours["tokens_per_solution"], "peer": peer["tokens_per_solution"],
        "peer_name": FULL, "unit": "tokens per solution", "target": 2.0, "pairs": 1,
        "ratio": round(peer["tokens_per_solution"] / ours["tokens_per_solution"], 2),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
