"""Advantages without a critic, by hand: groups, trees, masks, and recorded ones of another trainer."""

import gzip
import json
from collections import defaultdict

import numpy as np
import pytest
from small_models import CORRECT, ERROR, WRONG, branching_tree, make_tree

from reasoner.signals.advantages import ADVANTAGES
from reasoner.signals.credit import AdvantageConfig, segments_of, steps_of, tokens_of
from reasoner.signals.gae import gae
from reasoner.signals.group import dr_grpo, grpo, grpo_process, rloo
from reasoner.signals.reward import RewardConfig
from reasoner.signals.tree_values import sibling_loo, spo_tree, tree_rl, vineppo
from reasoner.tree import Tree
from verifiers import Verdict


def fan(*verdicts: Verdict, length: int = 2) -> Tree:
    rows = [(0, 1, [5 + i] * length, [0, length - 1]) for i in range(len(verdicts))]
    return make_tree([1], *rows, verdicts=dict(enumerate(verdicts, start=1)))


def two_by_two() -> Tree:
    """Two openings of 2 and 1 tokens, each continued twice from its end; right, wrong / right, right.

    1 ┬ 10 11| ┬ 12 13|   node 3, right
      │        └ 14 15|   node 4, wrong
      └ 20|    ┬ 21 22|   node 5, right
               └ 23|      node 6, right
    """
    return make_tree(
        [1],
        (0, 1, [10, 11], [1]), (0, 1, [20], [0]),
        (1, 2, [12, 13], [1]), (1, 2, [14, 15], [1]), (2, 1, [21, 22], [1]), (2, 1, [23], [0]),
        verdicts={3: CORRECT, 4: WRONG, 5: CORRECT, 6: CORRECT},
    )  # fmt: skip


def at(sample, *places):
    return [float(sample.advantages[node][index]) for node, index in places]


ENDS = [(1, 1), (2, 0), (3, 1), (4, 1), (5, 1), (6, 0)]


def test_gae_against_the_sum_of_its_definition():
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=9), rng.normal(size=10)
    for gamma, lam in [(0.9, 0.7), (1, 0.95), (1, 1), (0.5, 0)]:
        deltas = [rewards[t] + gamma * values[t + 1] - values[t] for t in range(9)]
        slow = [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, 9)) for t in range(9)]
        assert gae(rewards, values[:-1], values[1:], gamma, lam) == pytest.approx(slow)


def test_tokens_and_segments():
    tree = branching_tree()
    assert [(s.spans, s.before) for s in segments_of(tree, 6)] == [
        ([(1, 0, 3)], (0, 3)),
        ([(4, 0, 1)], (1, 3)),
        ([(6, 0, 2)], (4, 1)),
    ]
    assert [s.before for s in tokens_of(tree, 6)] == [(0, 3), (1, 1), (1, 2), (1, 3), (4, 1), (6, 1)]
    for leaf in tree.leaves():
        assert sum(s.num_tokens for s in segments_of(tree, leaf)) == len(tree.completion_ids(leaf))
        assert [s.end for s in tokens_of(tree, leaf)][-1] == steps_of(tree, leaf)[-1].end


def test_token_ppo():
    tree = make_tree([1], (0, 1, [5, 6, 7], [1, 2]), verdicts={1: CORRECT})
    tree.scores["token_value"] = {0: [0.5], 1: [0.6, 0.7, 0.9]}
    sample = ADVANTAGES["ppo"](tree, AdvantageConfig(method="ppo", gamma=1, lam=0.5))
    # deltas 0.1, 0.1 and 1 - 0.7: each adds half of the next
    assert sample.advantages[1].tolist() == pytest.approx([0.225, 0.25, 0.3])
    assert [(t.node, t.offset) for t in sample.targets] == [(0, 1), (1, 1), (1, 2)]
    assert [t.value for t in sample.targets] == pytest.approx([0.725, 0.85, 1.0])


def test_grpo_on_a_fan():
    sample = grpo(fan(CORRECT, WRONG, WRONG, CORRECT), AdvantageConfig())
    # mean 1/2, sample deviation √(4/4 / 3)
    a = 0.5 / np.sqrt(1 / 3)
    assert at(sample, (1, 0), (1, 1), (2, 0), (4, 1)) == pytest.approx([a, a, -a, a], abs=1e-5)


def test_dr_grpo_on_a_fan():
    sample = dr_grpo(fan(CORRECT, WRONG, WRONG, WRONG), AdvantageConfig())
    assert at(sample, (1, 0), (2, 1)) == pytest.approx([0.75, -0.25])


@pytest.mark.parametrize("verdict", [CORRECT, WRONG])
@pytest.mark.parametrize(
    "method", ["grpo", "dr_grpo", "rloo", "grpo_process", "sibling_loo", "spo_tree", "tree_rl"]
)
def test_equal_rewards_teach_nothing(method, verdict):
    sample = ADVANTAGES[method](fan(verdict, verdict, verdict), AdvantageConfig(method=method))
    for node in (1, 2, 3):
        # standardised step rewards still tell the rewarded last step from the others
        if method != "grpo_process" or verdict is WRONG:
            assert sample.advantages[node] == pytest.approx(np.zeros(2), abs=1e-12)


@pytest.mark.parametrize("method", sorted(ADVANTAGES))
def test_a_group_of_errors_weighs_nothing(method):
    tree = fan(ERROR, ERROR)
    tree.scores["value"] = {0: [0.5], 1: [0.5, 0.5], 2: [0.5, 0.5]}
    tree.scores["token_value"] = tree.scores["value"]
    tree.scores["pass_rate"] = {0: [0.5]}
    sample = ADVANTAGES[method](tree, AdvantageConfig(method=method))
    assert all((w == 0).all() for w in sample.weights.values())
    assert all(np.isfinite(a).all() for a in sample.advantages.values())
    assert sample.targets == []


def test_a_tree_of_depth_one_is_a_group():
    tree = fan(CORRECT, WRONG, WRONG, CORRECT)
    plain = AdvantageConfig()
    for method in (sibling_loo, vineppo):
        assert at(method(tree, plain), (1, 0), (2, 1)) == pytest.approx(at(rloo(tree, plain), (1, 0), (2, 1)))
    assert at(spo_tree(tree, plain), (1, 0), (2, 1)) == pytest.approx(
        at(dr_grpo(tree, plain), (1, 0), (2, 1))
    )
    # leave-one-out-centred rewards ± 2/3 of single leaves: global and local parts are the same
    assert at(tree_rl(tree, plain), (1, 0), (2, 1)) == pytest.approx([4 / 3, -4 / 3])


def test_process_supervision_sums_the_standardised_rewards_that_follow():
    tree = fan(CORRECT, WRONG)
    tree.scores["prm"] = {1: [0.8, 0.6], 2: [0.4, 0.2]}
    config = AdvantageConfig(reward=RewardConfig(outcome_weight=0, prm_weight=1, prm_form="sum"))
    s = np.sqrt(((0.3**2 + 0.1**2) * 2) / 3)  # of 0.8 0.6 0.4 0.2, mean 0.5
    sample = grpo_process(tree, config)
    assert at(sample, (1, 0), (1, 1), (2, 0), (2, 1)) == pytest.approx(
        [0.4 / s, 0.1 / s, -0.4 / s, -0.3 / s], abs=1e-4
    )


def test_sibling_leave_one_out():
    sample = sibling_loo(two_by_two(), AdvantageConfig())
    # openings are worth 1/2 and 1, each against the other; then each continuation against its sibling
    assert at(sample, *ENDS) == pytest.approx([-0.5, 0.5, 1, -1, 0, 0])
    assert sample.weights[1].tolist() == [0.5, 0.5] and sample.weights[6].tolist() == [0.25]


def test_spo_tree():
    sample = spo_tree(two_by_two(), AdvantageConfig())
    assert at(sample, *ENDS) == pytest.approx([-0.25, 0.25, 0.5, -0.5, 0, 0])
    assert sample.weights[4].tolist() == [0.25, 0.25]
    assert sample.weights[5].tolist() == [0, 0]  # nothing to learn where both siblings are right


def test_tree_rl():
    sample = tree_rl(two_by_two(), AdvantageConfig())
    # centred: right 1 - 2/3 = 1/3, wrong 0 - 1 = -1; openings -1/3 and 1/3, of two leaves each
    opening = (2 / 3) / np.sqrt(2)
    expected = [-opening, opening, 2 / 3 + 1 / 3, -2 + 1 / 3, 2 / 3 - 1 / 3, 2 / 3 - 1 / 3]
    assert at(sample, *ENDS) == pytest.approx(expected)
    assert sample.weights[1].tolist() == [0.5, 0.5] and sample.weights[6].tolist() == [0.25]


def test_vineppo():
    tree = make_tree(
        [1],
        (0, 1, [10, 11, 12], [0, 1, 2]), (0, 1, [20, 21], [0, 1]),
        (1, 1, [30], [0]), (1, 1, [31], [0]), (1, 1, [32], [0]), (2, 1, [40], [0]),
        verdicts={1: CORRECT, 2: WRONG, 3: CORRECT, 4: WRONG, 5: WRONG, 6: CORRECT},
    )  # fmt: skip
    sample = vineppo(tree, AdvantageConfig())
    # chain 1: the prompt is worth what chain 2 came to (1/2 · 0 + 1/2 · 1), its first step 1/3; the second
    # step was not continued, so that it shares in the last one's gain
    assert sample.advantages[1].tolist() == pytest.approx([1 / 3 - 1 / 2, 2 / 3, 2 / 3])
    # chain 2: the prompt is worth 1/4 · 1 of itself and 3/4 · 1/3 of its vines
    assert sample.advantages[2].tolist() == pytest.approx([1 - 1 / 2, 0 - 1])
    assert [sample.weights[i].tolist() for i in (3, 4, 5, 6)] == [[0]] * 4
    assert sample.weights[2].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("flipped", [3, 4, 5, 6])
def test_values_without_oneself_do_not_change_with_ones_own_subtree(flipped):
    """What a verdict adds to a segment's advantage is its own return and no baseline of any segment above it."""
    tree, other = two_by_two(), two_by_two()
    other.verdicts[flipped] = WRONG if tree.verdicts[flipped] is CORRECT else CORRECT
    gain = {True: 1.0, False: -1.0}[other.verdicts[flipped] is CORRECT]
    a, b = sibling_loo(tree, AdvantageConfig()), sibling_loo(other, AdvantageConfig())
    parent = tree.nodes[flipped].parent
    assert at(b, (flipped, 0))[0] - at(a, (flipped, 0))[0] == pytest.approx(gain)
    assert at(b, (parent, 0))[0] - at(a, (parent, 0))[0] == pytest.approx(gain / 2)


def test_sequences_weigh_the_same_whatever_their_length():
    tree = make_tree([1], (0, 1, [5], [0]), (0, 1, [6, 7, 8, 9], [3]), verdicts={1: CORRECT, 2: WRONG})
    sample = grpo(tree, AdvantageConfig(normalise="sequences"))
    assert [sample.weights[i].sum() for i in (1, 2)] == pytest.approx([0.5, 0.5])
    assert [grpo(tree, AdvantageConfig()).weights[i].sum() for i in (1, 2)] == pytest.approx([0.5, 2.0])


def test_masks():
    tree = make_tree(
        [1], (0, 1, [5, 6], [1]), (0, 1, [5, 6], [1]), (0, 1, [7], [0]), verdicts={1: CORRECT, 2: CORRECT, 3: WRONG}
    )  # fmt: skip
    object.__setattr__(tree.nodes[3], "stop_reason", "length")
    plain = dr_grpo(tree, AdvantageConfig())
    assert [plain.weights[i][0] for i in (1, 2, 3)] == pytest.approx([1 / 3] * 3)
    masked = dr_grpo(tree, AdvantageConfig(mask_truncated=True, mask_duplicates=True))
    assert [masked.weights[i][0] for i in (1, 2, 3)] == pytest.approx([1 / 3, 0, 0])
    assert masked.advantages[1] == pytest.approx(plain.advantages[1])  # the baseline still counts them


def test_recorded_grpo_advantages(shared_data):
    """prime-rl's groups: its recorded advantages from its recorded rewards."""
    groups = defaultdict(list)
    with gzip.open(shared_data / "replay" / "prime-rl_example_rewards.visible.jsonl.gz", "rt") as lines:
        for row in map(json.loads, lines):
            groups[row["request_idx"]].append(row)
    compared = 0
    for rows in groups.values():
        verdicts = [CORRECT if row["reward"] == 1 else WRONG for row in rows]
        assert {row["reward"] for row in rows} <= {0, 1}
        sample = grpo(fan(*verdicts), AdvantageConfig())
        found = [sample.advantages[i][0] for i in range(1, len(rows) + 1)]
        assert found == pytest.approx([row["advantage"] for row in rows], abs=1e-5)
        compared += len(rows)
    assert compared == 56
