"""The regime map's parts: a policy that is solved, advantages that are the repository's, what is charged, intervals, colours."""

import numpy as np
import pytest

from reasoner.signals.advantages import ADVANTAGES
from reasoner.signals.credit import AdvantageConfig
from reasoner.tree import ROOT, Node, Problem, Tree
from tests.benchmarks import regime_policy
from tests.benchmarks.regime_map import cell_map
from tests.benchmarks.regime_policy import (
    ACTIONS,
    GROUP,
    LAM,
    LEVELS,
    METHODS,
    SAMPLES,
    STATES,
    Exact,
    Labelled,
    Learned,
    Method,
    Task,
    exact_gradient,
    gradient,
    level_cuts,
    pass_rate,
    probabilities,
    rloo,
    start_logits,
)  # fmt: skip
from tests.benchmarks.regimes import (
    Cell,
    Interval,
    difference,
    interval,
    pass_rates,
    rank_correlation,
    signal_to_noise,
    summary,
    table,
    train,
)  # fmt: skip
from verifiers import Verdict

TASK = Task(6, 0.2, 0.3)
OURS = {
    "GRPO": "grpo", "RLOO": "rloo", "tree": "sibling_loo", "step PPO, exact values": "step_ppo",
    "step PPO, learned critic": "step_ppo", "step PPO, labelled PRM": "step_ppo", "step PPO, noisy PRM": "step_ppo",
}  # fmt: skip


def policies(task: Task = TASK, count: int = 2) -> np.ndarray:
    return np.stack([start_logits(task, seed) for seed in range(count)])


def trees(drawn, b: int, values, is_branched: bool) -> list[Tree]:
    """What was drawn for one run, as trees of the repository: a node for each piece that leaves share."""
    length = drawn.actions_BNH.shape[2]
    cuts = level_cuts(length) if is_branched else [0, length]
    found = []
    for begin in range(0, drawn.actions_BNH.shape[1], GROUP):
        tree = Tree.of_prompt(Problem("p", "", "math", {}), [9])
        tree.scores["value"] = {ROOT: [values.start_B[b] if values else 0.0]}
        made: dict[tuple[int, int], int] = {}
        for n in range(begin, begin + GROUP):
            parent, offset = ROOT, 1
            for k in range(len(cuts) - 1):
                shared = (k, (n - begin) // 2 ** (LEVELS - 1 - k) if is_branched else n)
                piece = slice(cuts[k], cuts[k + 1])
                ids = tuple(drawn.actions_BNH[b, n, piece].tolist())
                if shared not in made:
                    made[shared] = tree.add(Node(parent, offset, ids, step_ends=tuple(range(len(ids)))))
                    of_node = values.after_BNH[b, n, piece].tolist() if values else [0.0] * len(ids)
                    tree.scores["value"][made[shared]] = of_node
                assert tree.nodes[made[shared]].token_ids == ids
                parent, offset = made[shared], len(ids)
            is_right = drawn.reward_BN[b, n] == 1
            tree.verdicts[parent] = Verdict("correct", "ok") if is_right else Verdict("incorrect", "wrong")
        found.append(tree)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_a_rounds_gradient_is_that_of_the_repositorys_advantages(name):
    assert set(OURS) == set(METHODS)
    method, logits, rng = METHODS[name], policies(), np.random.default_rng(3)
    p = probabilities(logits)
    critic = method.critic(logits, TASK, rng, 4000) if method.critic else None
    if critic:
        critic.learn(method.draw(p, TASK, rng))
    drawn = method.draw(p, TASK, rng)
    values = critic(drawn, p) if critic else None
    found = gradient(drawn, method.advantages(drawn, values), p)
    config = AdvantageConfig(method=OURS[name], gamma=1, lam=LAM)
    for b in range(len(logits)):
        made = trees(drawn, b, values, name == "tree")
        assert sum(t.num_sampled for t in made) == drawn.tokens
        wanted = np.zeros((TASK.length, ACTIONS))
        for tree in made:
            sample = ADVANTAGES[config.method](tree, config)
            for i, node in enumerate(tree.nodes[1:], start=1):
                for k, action in enumerate(node.token_ids):
                    step = len(tree.completion_ids(i, k))
                    force = sample.weights[i][k] * sample.advantages[i][k] / len(made)
                    wanted[step] += force * (np.eye(ACTIONS)[action] - p[b, step])
        assert found[b] == pytest.approx(wanted, abs=1e-9)
        assert np.abs(wanted).max() > 1e-3


def test_a_policy_starts_as_often_right_as_asked_with_steps_unequally_hard():
    logits = policies(Task(16, 0, 0.02), 3)
    assert pass_rate(logits) == pytest.approx([0.02] * 3, abs=1e-9)
    assert (probabilities(logits)[..., 0].std(1) > 0.02).all()


def test_the_exact_gradient_is_that_of_the_pass_rate():
    logits = policies(count=1)
    moved = np.zeros_like(logits)
    moved[0, 2, 1] = 1e-5
    slope = (pass_rate(logits + moved) - pass_rate(logits - moved)) / 2e-5
    assert exact_gradient(logits)[0, 2, 1] == pytest.approx(slope[0], abs=1e-9)


def test_exact_values_by_hand():
    """Right with 1/2 at each of two steps; a verdict is turned over one time in ten."""
    logits = np.log(np.array([[[3, 1, 1, 1]] * 2]))
    task = Task(2, 0.1, 0.25)
    p = probabilities(logits)
    drawn = regime_policy._judged(np.array([[[0, 0], [1, 0]]]), 4, task, np.random.default_rng(0))
    values = Exact(logits, task, np.random.default_rng(0), 0)(drawn, p)
    assert values.start_B == pytest.approx([0.1 + 0.8 * 0.25])
    assert values.after_BNH[0] == pytest.approx(np.array([[0.1 + 0.8 * 0.5, 0.9], [0.1, 0.1]]))


@pytest.mark.parametrize("name", ["RLOO", "tree"])
def test_leave_one_out_points_along_the_exact_gradient(name):
    task, method, rng = Task(4, 0.0, 0.3), METHODS[name], np.random.default_rng(0)
    logits = np.repeat(policies(task, 1), 500, axis=0)  # one policy, many runs
    p, exact = probabilities(logits), exact_gradient(logits)[0]
    rounds = [method.draw(p, task, rng) for _ in range(3)]
    found = np.mean([gradient(d, method.advantages(d, None), p).mean(0) for d in rounds], axis=0)
    assert found == pytest.approx(exact, abs=0.006)
    assert np.abs(exact).max() > 0.05


def test_labels_are_charged_and_near_the_values():
    task = Task(4, 0.0, 0.5)
    logits = policies(task, 1)
    prm = Labelled(logits, task, np.random.default_rng(0), 400_000)
    chains = int(0.25 * 400_000 / (4 + STATES * SAMPLES * 2))
    assert prm.tokens_B[0] == pytest.approx(chains * (4 + STATES * SAMPLES * 2), rel=0.02)
    p = probabilities(logits)
    assert prm.table[0, 0, 1, 0] == pytest.approx(p[0, 1:, 0].prod(), abs=0.03)
    assert prm.table[0, 1, 1, 0] == pytest.approx(p[0, 2:, 0].prod(), abs=0.03)
    assert prm.table[0, 1, 0, 1] == pytest.approx(0, abs=0.01)


def test_a_critic_learns_outcomes_and_forgets():
    task = Task(2, 0.0, 0.5)
    logits = policies(task, 1)
    critic = Learned(logits, task, np.random.default_rng(0), 0)
    drawn = regime_policy._judged(np.array([[[0, 0], [0, 1]]]), 4, task, np.random.default_rng(0))
    critic.learn(drawn)
    start = (0.9 * 0.5 + 1) / (0.9 + 2)
    values = critic(drawn, probabilities(logits))
    assert values.start_B == pytest.approx([start])
    # two chains pass the first step by the same action, and one of them ends right
    assert values.after_BNH[0, :, 0] == pytest.approx([(1 + start) / 3] * 2)
    assert values.after_BNH[0, :, 1] == pytest.approx([(1 + start) / 2, start / 2])


def test_no_round_is_drawn_beyond_the_budget():
    rounds = []

    def counted(p, task, rng):
        rounds.append(0)
        return METHODS["RLOO"].draw(p, task, rng)

    task = Task(4, 0.0, 0.3)
    logits, rates = policies(task, 2), np.array([32.0, 32.0])
    tokens = METHODS["RLOO"].draw(probabilities(logits), task, np.random.default_rng(0)).tokens
    assert tokens == 512
    assert train(Method(counted, rloo), task, logits, rates, 511, 0) == pytest.approx([0.3, 0.3])
    assert (train(Method(counted, rloo), task, logits, rates, 5 * 512, 0) > 0.4).all()
    assert len(rounds) == 1 + 6  # the last of each is not paid for, and not learned from


def test_a_prm_whose_labels_take_the_budget_leaves_the_policy_as_it_was():
    method = METHODS["step PPO, labelled PRM"]
    task = Task(32, 0.0, 0.2)
    found = train(method, task, policies(task, 2), np.array([32.0, 32.0]), 512, 0)
    assert found == pytest.approx([0.2, 0.2])


def test_runs_of_a_seed_begin_alike_and_are_sorted_by_rate():
    found = pass_rates(METHODS["RLOO"], Task(4, 0.0, 0.3), [0, 1, 2], [1e-9, 32.0], 1024, 0)
    assert found.shape == (2, 3)
    assert found[0] == pytest.approx([0.3] * 3) and (np.abs(found[1] - 0.3) > 1e-4).all()


def test_signal_to_noise_by_hand():
    """Along (1, 0) the parts are 1 and 3, mean 2; what is left is (-1, 2) and (1, 2), mean square 5."""
    assert signal_to_noise(np.array([[1.0, 2.0], [3.0, 2.0]]), np.array([5.0, 0.0])) == pytest.approx(
        2 / 5**0.5
    )


def test_intervals_are_students_and_paired():
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.30 / 3**0.5))
    assert [Interval(2, 1).verdict, Interval(-2, 1).verdict, Interval(1, 1).verdict] == [1, -1, 0]
    assert [Interval(0.4, 0.1).verdict, Interval(0.6, 0.1).verdict] == [0, 1]
    cell = Cell(TASK, 512, "RLOO", 0.1, [50.0, 20.0, 80.0], 1.0)
    assert difference(cell, cell._replace(accuracies=[49.0, 19.0, 79.0])) == pytest.approx((1.0, 0.0))


def test_ranks():
    assert rank_correlation([1, 2, 3], [10, 30, 20]) == pytest.approx(0.5)
    assert rank_correlation([1, 2, 3], [-1, -2, -3]) == pytest.approx(-1)


def test_what_loses_is_told_and_drawn_as_plainly_as_what_wins(tmp_path):
    def of(method: str, *accuracies: float) -> Cell:
        return Cell(TASK, 512, method, 0.1, list(accuracies), 1.0)

    better, worse = (61.0, 61.5, 62.0), (41.0, 41.5, 42.0)
    names = [name for name in METHODS if name != "GRPO"]
    cells = [of("GRPO", 51.0, 51.5, 52.0), *(of(n, *(better if n == "RLOO" else worse)) for n in names)]
    cells += [cell._replace(budget=1024, accuracies=[50.0] * 3) for cell in cells]  # where all are alike
    rows = {row["name"]: row for row in summary(cells)}
    assert (rows["regimes: RLOO"]["won"], rows["regimes: RLOO"]["lost"]) == (1, 0)
    assert (rows["regimes: tree"]["won"], rows["regimes: tree"]["lost"]) == (0, 1)
    assert "**+10.0 ± 0.0**" in table(cells) and "**-10.0 ± 0.0**" in table(cells)
    panels = {
        "a": {(TASK, 512): Interval(20, 1)},
        "b": {(TASK, 512): Interval(-20, 1)},
        "c": {(TASK, 512): Interval(10, 11)},
    }
    cell_map(tmp_path / "map.svg", panels, [6], [0.3], [0.2], [512])
    picture = (tmp_path / "map.svg").read_text()
    assert (
        'fill="var(--accent)" fill-opacity="0.55"' in picture
        and 'fill="var(--wrong)" fill-opacity="0.55"' in picture
    )
    assert 'fill="var(--track)"' in picture and "ahead in 1, behind in 0 of 1" in picture
