"""An adversarial PRM that likes filler and repeats: raw sums lose the accuracy, the fused reward does not, the alarm rings.

The policy is a table over positions, trained by the repository's own rewards, advantages and alarms: at each
position it works, writes filler, or answers. An answer after two steps of work is right.
"""

import numpy as np

from reasoner.signals.credit import AdvantageConfig
from reasoner.signals.group import rloo
from reasoner.signals.reward import RewardConfig
from reasoner.trainers.alarms import AlarmConfig, alarms
from reasoner.tree import ROOT, Node, Problem, Tree
from verifiers import Verdict

WORK, FILLER, ANSWER = range(3)
LIKED = {WORK: 0.6, FILLER: 0.95, ANSWER: 0.6}  # what the PRM gives a step
ALIKE = dict.fromkeys(
    LIKED, 0.6
)  # a PRM that likes every step: its sum pays for their number, its mean stays
LONGEST = 8
CHAINS, TREES, ROUNDS, RATE = 6, 6, 60, 1.0


def grow(probabilities: np.ndarray, rng: np.random.Generator, liked: dict[int, float]) -> Tree:
    tree = Tree.of_prompt(Problem("p", "", "math", {}), [9])
    tree.scores["prm"] = {ROOT: [0.5]}
    for _ in range(CHAINS):
        steps: list[int] = []
        while len(steps) < LONGEST and ANSWER not in steps:
            steps.append(int(rng.choice(3, p=probabilities[len(steps)])))
        node = tree.add(Node(ROOT, 1, tuple(steps), step_ends=tuple(range(len(steps)))))
        is_right = steps[-1] == ANSWER and steps.count(WORK) == 2
        tree.verdicts[node] = Verdict("correct", "ok") if is_right else Verdict("incorrect", "wrong")
        tree.scores["prm"][node] = [liked[s] for s in steps]
    return tree


def run(reward: RewardConfig, seed: int, liked: dict[int, float] = LIKED) -> tuple[list[float], set[str]]:
    """Accuracy by round, and the alarms that rang."""
    rng = np.random.default_rng(seed)
    logits = np.zeros((LONGEST, 3))
    config = AdvantageConfig(method="rloo", reward=reward)
    watched: list[dict[str, float]] = []
    rung: set[str] = set()
    for _ in range(ROUNDS):
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        trees = [grow(probabilities, rng, liked) for _ in range(TREES)]
        gradient = np.zeros_like(logits)
        for sample in (rloo(tree, config) for tree in trees):
            for i, node in enumerate(sample.tree.nodes[1:], start=1):
                for k, action in enumerate(node.token_ids):
                    force = sample.weights[i][k] * sample.advantages[i][k] / TREES
                    gradient[k] -= force * probabilities[k]
                    gradient[k, action] += force
        logits += RATE * gradient
        chains = [node for t in trees for node in t.nodes[1:]]
        right = [v.status == "correct" for t in trees for v in t.verdicts.values()]
        prm = [x for t in trees for i, of_node in t.scores["prm"].items() if i != ROOT for x in of_node]
        steps = float(np.mean([len(n.token_ids) for n in chains]))
        watched.append({
            "prm": float(np.mean(prm)), "prm_sum": sum(prm) / len(chains), "reward": float(np.mean(right)),
            "num_steps": steps, "length": steps, "kl_step": 0.0,
        })  # fmt: skip
        rung |= set(alarms(watched, AlarmConfig()))
    return [w["reward"] for w in watched], rung


def test_raw_sums_are_hacked_and_the_fused_reward_is_not():
    for seed in range(3):
        summed, rung = run(RewardConfig(outcome_weight=0.0, prm_weight=1.0, prm_form="sum"), seed)
        assert np.mean(summed[-10:]) < 0.02 < np.mean(summed[:5])
        assert "prm_hacked" in rung
        fused, rung = run(RewardConfig(prm_weight=0.1), seed)
        assert np.mean(fused[-10:]) > np.mean(fused[:5]) + 0.3
        assert "prm_hacked" not in rung


def test_sums_lose_accuracy_even_beside_the_outcome():
    accuracy, rung = run(RewardConfig(outcome_weight=1.0, prm_weight=1.0, prm_form="sum"), 0)
    assert np.mean(accuracy[-10:]) < 0.02
    assert "prm_hacked" in rung


def test_a_sum_that_grows_by_longer_chains_alone_rings_too():
    for seed in range(3):
        accuracy, rung = run(RewardConfig(outcome_weight=0.0, prm_weight=1.0, prm_form="sum"), seed, ALIKE)
        assert np.mean(accuracy[-10:]) < np.mean(accuracy[:5]) + 0.05
        assert "prm_hacked" in rung
        _, rung = run(RewardConfig(prm_weight=0.1), seed, ALIKE)
        assert "prm_hacked" not in rung
