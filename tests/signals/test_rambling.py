"""Answer and ramble on earns what answer and stop earns: trained for thirty rounds, chains do not run to the limit.

The policy and its critic are tables, trained by the repository's own rewards and advantages: the first token is a
right or a wrong answer, and each one after it rambles on or stops. Every chain is judged, cut by the limit or not.
"""

import numpy as np
import pytest

from reasoner.signals.advantages import ADVANTAGES, CRITIC
from reasoner.signals.credit import AdvantageConfig
from reasoner.tree import ROOT, Node, Problem, Tree
from verifiers import Verdict

STOP, RAMBLE, RIGHT = 0, 1, 1
LIMIT, CHAINS, TREES, ROUNDS = 24, 8, 8, 30


def probability(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def state(tree: Tree, node: int, offset: int) -> tuple[int, int]:
    """Row and column of a state in the tables: how many tokens, and whether the answer is right."""
    ids = tree.nodes[node].token_ids if node != ROOT else ()
    return (0, 0) if node == ROOT else (offset, ids[0])


def grow(logits: np.ndarray, values: np.ndarray, rng: np.random.Generator) -> Tree:
    """Chains of the policy, each token a step, with the critic's values."""
    tree = Tree.of_prompt(Problem("p", "", "math", {}), [9])
    scores = {ROOT: [float(values[0, 0])]}
    for _ in range(CHAINS):
        ids = [int(rng.random() < probability(logits[0, 0]))]
        while len(ids) < LIMIT and (len(ids) == 1 or ids[-1] != STOP):
            ids.append(int(rng.random() < probability(logits[len(ids), ids[0]])))
        is_cut = len(ids) == LIMIT and ids[-1] != STOP
        node = tree.add(
            Node(ROOT, 1, tuple(ids), step_ends=tuple(range(len(ids))), stop_reason="length" if is_cut else "eos")
        )
        tree.verdicts[node] = Verdict("correct", "ok") if ids[0] == RIGHT else Verdict("incorrect", "wrong")
        scores[node] = [float(values[k, ids[0]]) for k in range(1, len(ids) + 1)]
    tree.scores["value"] = tree.scores["token_value"] = scores
    return tree


def train(method: str, seed: int) -> tuple[list[float], list[float]]:
    """Mean length and accuracy by round."""
    rng = np.random.default_rng(seed)
    logits = np.full((LIMIT + 1, 2), 2.0)  # rambles on with 88 %
    logits[0] = 0.0
    values = np.full((LIMIT + 1, 2), 0.5)
    config = AdvantageConfig(method=method)
    lengths, right = [], []
    for _ in range(ROUNDS):
        trees = [grow(logits, values, rng) for _ in range(TREES)]
        gradient = np.zeros_like(logits)
        for sample in (ADVANTAGES[method](tree, config) for tree in trees):
            for i, node in enumerate(sample.tree.nodes[1:], start=1):
                for k, action in enumerate(node.token_ids):
                    at = (0, 0) if k == 0 else state(sample.tree, i, k)
                    push = action - probability(logits[at])
                    gradient[at] += sample.weights[i][k] * sample.advantages[i][k] * push / TREES
            for target in sample.targets:
                at = state(sample.tree, target.node, target.offset)
                values[at] += 0.3 * target.weight * (target.value - values[at])
        logits += 10.0 * gradient
        chains = [node for t in trees for node in t.nodes[1:]]
        lengths.append(float(np.mean([len(n.token_ids) for n in chains])))
        right.append(float(np.mean([v.status == "correct" for t in trees for v in t.verdicts.values()])))
    return lengths, right


@pytest.mark.parametrize("method", [*sorted(CRITIC), "rloo", "grpo", "sibling_loo"])
def test_chains_do_not_run_to_the_limit(method):
    first, last, accuracy = [], [], []
    for seed in range(3):
        lengths, right = train(method, seed)
        first.append(np.mean(lengths[:3]))
        last.append(np.mean(lengths[-3:]))
        accuracy.append(np.mean(right[-3:]))
    assert 7 < np.mean(first) < 11
    assert np.mean(accuracy) > 0.9
    assert np.mean(last) < 1.35 * np.mean(first)
