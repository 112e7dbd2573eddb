"""First errors of 16-step solutions by bisection against labelling every step: python -m tests.benchmarks.bisection

A small model learns running sums of 17 terms for a while, so that its errors are its own, and writes solutions;
the wrong ones are labelled both ways with at most N = 8 continuations a state, stopped at the first correct
one on both sides. Places fix the noise: at the same state both sides draw the same continuations. The truth
is the exact check of every written step. Confirmed: where a first error is found, N further continuations have
to fail. With --oracle the solutions come from a reasoner of known step
values instead (tests/markov: one token a step, errors never mended), in seconds and without a model.
Prints one JSON line a comparison; above 1 bisection is cheaper.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from reasoner.config import validate
from reasoner.data.prompting import PromptConfig, Prompting
from reasoner.engine.local import LocalEngine
from reasoner.ledger import Ledger
from reasoner.pipeline import RunConfig, run
from reasoner.policy.models import load_model, load_tokenizer
from reasoner.scoring.outcome import judge
from reasoner.search.chain import fan
from reasoner.search.first_error import BisectConfig, bisect, first_error
from reasoner.search.grow import Branch, BranchPolicy, Growth, grow
from reasoner.tree import Tree, counts
from verifiers.arithmetic_steps import check_steps

sys.path.insert(0, str(Path(__file__).parent.parent))
import markov

NUM_STEPS, N = 16, 8
FAMILY = {
    "chain_sum": {"min_terms": NUM_STEPS + 1, "max_terms": NUM_STEPS + 1, "min_digits": 1, "max_digits": 1}
}
TEMPLATE = "{prompt}=\n"


def every_step(stop_at_bad: bool) -> BranchPolicy:
    """Up to N continuations after each step until one is right; or step by step to the first state without any."""

    def policy(tree: Tree, wave: int) -> list[Branch]:
        states = [(1, e + 1) for e in tree.nodes[1].step_ends[:-1]]
        drawn = [counts(tree, *s) for s in states]
        open_states = [s for s, d in zip(states, drawn, strict=True) if d.n < N and not d.c]
        if not stop_at_bad:
            return [Branch(*s) for s in open_states]
        if any(d.n >= N and not d.c for d in drawn):
            return []
        return [Branch(*open_states[0])] if open_states else []

    return policy


def labelled(
    solutions: list[Tree], policy: BranchPolicy, growth: Growth, make_engine
) -> tuple[list, int, float]:
    """First errors of the solutions, the tokens decoded and the seconds."""
    trees = [Tree(t.problem, t.nodes[:2], {1: t.verdicts[1]}) for t in solutions]
    ledger = Ledger()
    with ledger.stage("label"):
        engine, decode = make_engine(ledger)
        grow(trees, engine, policy, growth, observe=lambda ready: judge(ready, decode) and None)
    return [first_error(t, 1) for t in trees], int(ledger.total("decoded")), ledger.seconds["label"]


def oracle(pairs: int, error: float) -> None:
    """The comparisons on a reasoner whose steps are wrong with a known probability."""
    measured = []
    for seed in range(pairs):
        growth = Growth(markov.mark_steps, NUM_STEPS + 1, seed=seed)
        trees = markov.markov_trees(400)
        grow(trees, markov.MarkovEngine(NUM_STEPS, error, 0.0), fan(1), growth, observe=markov.judge)
        solutions = [t for t in trees if t.verdicts[1].status == "incorrect"]
        found = {}
        for name, policy in sides().items():
            copies = [Tree(t.problem, t.nodes[:2], {1: t.verdicts[1]}) for t in solutions]
            engine = markov.MarkovEngine(NUM_STEPS, error, 0.0)
            start = time.perf_counter()
            grow(copies, engine, policy, growth, observe=markov.judge)
            found[name] = ([first_error(t, 1) for t in copies], engine.decoded, time.perf_counter() - start)
        truth = [t.nodes[1].token_ids.index(markov.BAD) for t in solutions]
        measured.append((len(solutions), 1 - len(solutions) / len(trees), found, truth))
    report(f"a step is wrong with probability {error}", measured)


def sides() -> dict[str, BranchPolicy]:
    """Ways to find a first error, all with early stop."""
    return {
        "bisection": bisect(BisectConfig(num_rollouts=N, need_mixed=False)),
        "bisection, confirmed": bisect(BisectConfig(num_rollouts=N, need_mixed=False, num_confirm=N)),
        "bisection, middle": bisect(BisectConfig(num_rollouts=N, need_mixed=False, probe="middle")),
        "every step": every_step(stop_at_bad=False),
        "steps to the first bad one": every_step(stop_at_bad=True),
    }


def report(reasoner: str, pairs: list) -> None:
    for ours in ("bisection", "bisection, confirmed", "bisection, middle"):
        for peer, target in (("every step", 2.0), ("steps to the first bad one", None)):
            _report(reasoner, ours, peer, target, pairs)


def trained(folder: Path, steps: int) -> Path:
    """The model after a short fine-tuning on written solutions."""
    problems = {"demonstrations": [{"name": "arithmetic", "size": 6000, "families": FAMILY}]}
    stages = [
        {"kind": "init", "max_context": 512},
        {"kind": "sft", "model": "base", "batch_size": 32, "max_steps": steps,
         "optimizer": {"name": "muon", "lr": 0.005}},
    ]  # fmt: skip
    raw = {"out": str(folder), "prompt": {"template": TEMPLATE}, "problems": problems, "stages": stages}
    run(validate(RunConfig, raw, "benchmark"))
    return folder / "models" / "sft" / "model"


def main(arguments: argparse.Namespace, problems: Callable[[int], list]) -> None:
    folder = Path(arguments.folder or tempfile.mkdtemp())
    model_folder = folder / "models" / "sft" / "model"
    if not model_folder.is_dir():
        trained(folder, arguments.steps)
    prompting = Prompting(load_tokenizer(str(model_folder)), PromptConfig(template=TEMPLATE))
    model = load_model(str(model_folder)).eval()

    def make_engine(ledger: Ledger):
        return LocalEngine(model, [prompting.eos_id], 128, 384, ledger=ledger), prompting.decode

    pairs = []
    for seed in range(arguments.pairs):
        growth = Growth(prompting.mark_steps, 200, seed=seed)
        trees = [Tree.of_prompt(p, prompting.prompt_ids(p.prompt)) for p in problems(seed)]
        ledger = Ledger()
        with ledger.stage("solve"):
            grow(trees, make_engine(ledger)[0], fan(1), growth)
        judge(trees, prompting.decode)
        solutions = [
            t for t in trees if t.verdicts[1].status == "incorrect" and len(t.nodes[1].step_ends) >= NUM_STEPS
        ][: arguments.solutions]
        accuracy = sum(t.verdicts[1].status == "correct" for t in trees) / len(trees)
        policies = sides()
        order = list(policies) if seed % 2 == 0 else list(policies)[::-1]
        found = {name: labelled(solutions, policies[name], growth, make_engine) for name in order}
        truth = [
            next((i for i, s in enumerate(check_steps(prompting.decode(t.nodes[1].token_ids), t.problem.prompt))
                  if s.right is False), None)
            for t in solutions
        ]  # fmt: skip
        pairs.append((len(solutions), accuracy, found, truth))
    report("a small model's running sums", pairs)


def _report(reasoner: str, ours: str, peer: str, target: float | None, pairs: list) -> None:
    ratios = [f[peer][1] / f[ours][1] for _, _, f, _ in pairs]
    num = sum(n for n, *_ in pairs)
    same = sum(a == b for _, _, f, _ in pairs for a, b in zip(f[ours][0], f[peer][0], strict=True))
    true = {
        name: sum(a == b for _, _, f, t in pairs for a, b in zip(f[name][0], t, strict=True)) / num
        for name in (ours, peer)
    }
    print(
        json.dumps(
            {
                "name": "bisection_tokens",
                "ours": median(f[ours][1] / n for n, _, f, _ in pairs),
                "peer": median(f[peer][1] / n for n, _, f, _ in pairs),
                "ours_name": ours,
                "peer_name": peer,
                "reasoner": reasoner,
                "unit": "decoded tokens per solution",
                "ratio": round(median(ratios), 3),
                "target": target,
                "pairs": len(pairs),
                "solutions": num,
                "accuracy": round(median(a for _, a, *_ in pairs), 3),
                "same_first_error": round(same / num, 3),
                "true_first_error": {name: round(x, 3) for name, x in true.items()},
                "seconds": {
                    name: round(median(f[name][2] for _, _, f, _ in pairs), 2) for name in (ours, peer)
                },
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    from reasoner.data.sources import SourceConfig, load_items

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="run folder of the model; trained there where it is missing")
    parser.add_argument("--steps", type=int, default=300, help="updates of the fine-tuning")
    parser.add_argument("--solutions", type=int, default=8, help="wrong solutions labelled in each pair")
    parser.add_argument("--problems", type=int, default=40, help="problems solved in each pair")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--oracle", action="store_true", help="a reasoner of known step values, no model")
    given = parser.parse_args()
    if given.oracle:
        for error in (0.02, 0.04, 0.08):
            oracle(given.pairs, error)
        raise SystemExit

    def problems(seed: int) -> list:
        start = 50_000_000 + 10_000 * seed
        source = SourceConfig.model_validate(
            {"name": "arithmetic", "start": start, "size": given.problems, "families": FAMILY}
        )
        return [item.problem for item in load_items(source)]

    main(given, problems)
