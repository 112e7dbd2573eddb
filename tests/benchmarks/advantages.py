"""An advantage microscope: what each estimator's gradient is worth, on a policy whose exact gradient is known.

`python -m tests.benchmarks.advantages [--trees N] [--out FOLDER]` samples trees from tabular policies
(5 steps, 3 actions each, a share of the 243 answers right) and compares each estimator's surrogate gradient
g with the exact one, G:

- bias² = ‖c E[g] - G‖² / ‖G‖², with the scale c that is best for the estimator (an optimizer's step does not
  depend on it), and with the sampling error of E[g] taken off;
- variance = c² tr Cov(g) · (tokens a tree) / ‖G‖²: that of a gradient from one generated token's worth of trees;
- cosine: between G and the mean gradient of as many trees as a budget of generated tokens pays for.

Critics are the exact values plus an error that is a function of the state (deviation in the name). Prints a
table, one JSON line for each estimator against GRPO, and writes a plot with --out.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reasoner.report.charts import bar_chart
from reasoner.signals.advantages import ADVANTAGES
from reasoner.signals.credit import AdvantageConfig
from reasoner.tree import ROOT, Tree
from tests.benchmarks.measure import save_chart

sys.path.insert(0, str(Path(__file__).parent.parent))
from tabular import Choose, Tabular, cosine, even, fan, sampler, vines

BUDGET = 480  # generated tokens behind one cosine
DEPTH, ACTIONS = 5, 3
PEER = "GRPO"


class Estimator(NamedTuple):
    """A method, the trees it is given, and the deviation of its critic's error (None: no critic)."""

    method: str
    grow: Callable[[Tabular, Choose], Tree]
    critic: float | None = None
    lam: float = 1.0


def _fan(policy: Tabular, choose: Choose) -> Tree:
    return fan(policy, choose, 8)


def _vines(policy: Tabular, choose: Choose) -> Tree:
    return vines(policy, choose, 2, 3)


def _even(policy: Tabular, choose: Choose) -> Tree:
    return even(policy, choose, 3, 2)


ESTIMATORS: dict[str, Estimator] = {
    "GRPO": Estimator("grpo", _fan),
    "Dr.GRPO": Estimator("dr_grpo", _fan),
    "RLOO": Estimator("rloo", _fan),
    "RLOO on trees": Estimator("rloo", _even),
    "sibling leave-one-out": Estimator("sibling_loo", _even),
    "SPO-tree": Estimator("spo_tree", _even),
    "TreeRL": Estimator("tree_rl", _even),
    "VinePPO": Estimator("vineppo", _vines),
    "PPO, exact critic": Estimator("ppo", _fan, 0.0, 0.95),
    "PPO, critic ± 0.2": Estimator("ppo", _fan, 0.2, 0.95),
    "PPO, critic ± 0.2, λ = 1": Estimator("ppo", _fan, 0.2, 1.0),
    "step PPO on trees, exact critic": Estimator("step_ppo", _even, 0.0, 0.95),
    "step PPO on trees, critic ± 0.2": Estimator("step_ppo", _even, 0.2, 0.95),
}


class Measured(NamedTuple):
    bias2: float
    variance: float
    cosine: float
    tokens: float  # a tree


def measure(estimator: Estimator, policy: Tabular, num_trees: int, seed: int) -> Measured:
    """Sample `num_trees` trees of one policy; the same seed gives the same noise in every critic."""
    choose = sampler(seed)
    noise = np.random.default_rng(seed)
    errors = {prefix: noise.normal() for prefix in policy.logits}
    config = AdvantageConfig(method=estimator.method, gamma=1, lam=estimator.lam)
    exact = policy.exact_gradient()
    gradients = np.zeros((num_trees, len(exact)))
    tokens = 0
    for t in range(num_trees):
        tree = estimator.grow(policy, choose)
        tokens += tree.num_sampled
        if estimator.critic is not None:
            _score(policy, tree, errors, estimator.critic)
        gradients[t] = policy.surrogate_gradient(ADVANTAGES[estimator.method](tree, config))
    per_tree = tokens / num_trees
    mean = gradients.mean(0)
    spread = float(gradients.var(0, ddof=1).sum())
    norm2 = float(exact @ exact)
    mean2 = float(mean @ mean) - spread / num_trees  # of the mean itself, less that of its error
    scale = float(mean @ exact) / mean2
    bias2 = (scale * scale * mean2 - 2 * scale * float(mean @ exact) + norm2) / norm2
    group = max(1, round(BUDGET / per_tree))
    whole = num_trees // group * group
    means = gradients[:whole].reshape(-1, group, len(exact)).mean(1)
    cosines = [cosine(m, exact) for m in means]
    return Measured(
        max(0.0, bias2), scale * scale * spread * per_tree / norm2, float(np.mean(cosines)), per_tree
    )


def _score(policy: Tabular, tree: Tree, errors: dict, deviation: float) -> None:
    def value(prefix: tuple[int, ...]) -> float:
        return policy.value(prefix) + deviation * errors.get(prefix, 0.0)

    values = {ROOT: [value(())]}
    for i, node in enumerate(tree.nodes[1:], start=1):
        values[i] = [value(tuple(tree.completion_ids(i, k + 1))) for k in range(len(node.token_ids))]
    tree.scores["value"] = tree.scores["token_value"] = values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trees", type=int, default=600, help="trees per policy and estimator")
    parser.add_argument("--policies", type=int, default=3, help="tabular policies, by seed")
    parser.add_argument("--out", type=Path, help="folder for advantages.svg")
    arguments = parser.parse_args()
    policies = [Tabular.random(DEPTH, ACTIONS, seed, share_right=0.3) for seed in range(arguments.policies)]
    found: dict[str, Measured] = {}
    print(
        "| estimator | tokens a tree | bias² | variance a token | cosine at 480 tokens |\n|---|---|---|---|---|"
    )
    for name, estimator in ESTIMATORS.items():
        of_policies = [measure(estimator, p, arguments.trees, seed) for seed, p in enumerate(policies)]
        found[name] = m = Measured(*(math.fsum(x) / len(of_policies) for x in zip(*of_policies, strict=True)))
        print(f"| {name} | {m.tokens:.0f} | {m.bias2:.3f} | {m.variance:.0f} | {m.cosine:.3f} |", flush=True)
    for name, m in found.items():
        if name != PEER:
            line = {
                "name": f"advantages: {name}", "ours": round(m.cosine, 4), "peer": round(found[PEER].cosine, 4),
                "peer_name": PEER, "unit": f"cosine with the exact gradient at {BUDGET} tokens",
                "ratio": round(m.cosine / found[PEER].cosine, 3), "target": None, "pairs": len(policies),
            }  # fmt: skip
            print(json.dumps(line))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        bars = [(name, m.cosine, f"{m.cosine:.3f}") for name, m in found.items()]
        save_chart(arguments.out / "advantages.svg", bar_chart(bars))


if __name__ == "__main__":
    main()
