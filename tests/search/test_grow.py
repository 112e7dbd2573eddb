"""Growing trees: the same trees whatever the batching, and what of them is told while they grow."""

import copy
import dataclasses
import math

import pytest
import torch
from small_models import branching_tree, small_lm

from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Sampling, place_key
from reasoner.registry import UserError
from reasoner.search.chain import fan
from reasoner.search.grow import Branch, Growth, _requests, _warn_endless, grow, place_paths
from reasoner.tree import ROOT, Node, Problem, Tree
from tests.search.growing import MAX_TOKENS, POLICIES, PROMPTS, branched, grown, mark_steps, shape


@pytest.fixture(scope="module")
def lm():
    return small_lm("qwen2")


@pytest.mark.parametrize("policy", [fan(4), *POLICIES])
def test_same_trees_whatever_else_is_under_way(lm, policy):
    trees = grown(lm, policy, num_slots=8)
    for num_slots in (1, 3, 64):
        assert [shape(t) for t in grown(lm, policy, num_slots=num_slots)] == [shape(t) for t in trees]
    for i in (0, 3):
        assert shape(grown(lm, policy, numbers=[i])[0]) == shape(trees[i])
    assert [shape(t) for t in grown(lm, policy, numbers=[4, 2, 0])] == [shape(trees[i]) for i in (4, 2, 0)]


@pytest.mark.parametrize("policy", [fan(2), *POLICIES])
def test_prompts_that_cannot_be_served_leave_the_others_as_they_were(lm, policy):
    prompts = [PROMPTS[0], [1] * 64, [], [70], PROMPTS[3]]
    trees = [Tree.of_prompt(Problem(f"problem {i}", "", "math", {}), ids) for i, ids in enumerate(prompts)]
    grow(trees, LocalEngine(lm, (0, 20), 8, max_context=64), policy, Growth(mark_steps, MAX_TOKENS))
    for i, reason in ((1, "context"), (2, "empty"), (3, "vocabulary")):
        assert {(n.stop_reason, n.token_ids) for n in trees[i].nodes[1:]} == {(reason, ())}
    for i in (0, 4):
        alone = [Tree.of_prompt(trees[i].problem, prompts[i])]
        grow(alone, LocalEngine(lm, (0, 20), 8, max_context=64), policy, Growth(mark_steps, MAX_TOKENS))
        assert shape(trees[i]) == shape(alone[0])
        assert len(trees[i].nodes) > 2


def test_seed_and_round_change_the_trees(lm):
    plain = shape(grown(lm, fan(2))[0])
    assert shape(grown(lm, fan(2), seed=1)[0]) != plain
    assert shape(grown(lm, fan(2), round=1)[0]) != plain


def test_fan(lm):
    for tree in grown(lm, fan(6)):
        assert len(tree.nodes) == 7 and tree.leaves() == [1, 2, 3, 4, 5, 6]
        assert {(n.parent, n.offset) for n in tree.nodes[1:]} == {(ROOT, len(tree.nodes[ROOT].token_ids))}
        assert len({n.token_ids for n in tree.nodes[1:]}) > 1
        assert all(t.is_independent for t in tree.trajectories())


def test_each_continuation_is_told_of_before_its_wave_is_complete(lm):
    trees = [Tree.of_prompt(Problem(f"problem {i}", "", "math", {}), PROMPTS[i]) for i in range(3)]
    told: list[tuple[int, int, Node]] = []
    early = []

    def on_node(t: int, number: int, node: Node) -> None:
        told.append((t, number, node))
        early.append(number >= len(trees[t].nodes))

    engine = LocalEngine(lm, (0, 20), 8, max_context=64)
    grow(trees, engine, branched("spread_steps"), Growth(mark_steps, MAX_TOKENS), on_node=on_node)
    assert all(early) and len(told) == sum(len(t.nodes) - 1 for t in trees)
    assert all(trees[t].nodes[number] is node for t, number, node in told)


def test_place_paths():
    tree = branching_tree()
    tree.add(Node(1, 4, (9,)))
    assert place_paths(tree) == [
        [],
        [(3, 0)],
        [(3, 1)],
        [(3, 0), (4, 0)],
        [(3, 0), (3, 0)],
        [(3, 0), (4, 0), (2, 0)],
        [(3, 0), (3, 0), (1, 0)],
        [(3, 0), (4, 1)],
    ]


def test_requests_name_the_place_and_the_rest_of_the_budget():
    tree = branching_tree()
    growth = Growth(mark_steps, 7, seed=5, round=2, sampling=Sampling(0.5), stop_ids=frozenset([4]))
    found = _requests(tree, 8, [Branch(1, 4), Branch(1, 4), Branch(6, 1), Branch(ROOT, 3)], growth)
    assert [r.id for r in found] == [(8, 0), (8, 1), (8, 2), (8, 3)]
    assert [r.prefix_ids for r in found] == [
        [1, 2, 3, 10, 11, 12, 13],
        [1, 2, 3, 10, 11, 12, 13],
        [1, 2, 3, 10, 11, 12, 40, 60],
        [1, 2, 3],
    ]
    assert [r.max_tokens for r in found] == [3, 3, 2, 7]
    # node 3 is continuation 0 of the state (1, 4), nodes 1 and 2 are 0 and 1 of the prompt's end
    paths = [[(3, 0), (4, 1)], [(3, 0), (4, 2)], [(3, 0), (3, 0), (1, 0), (1, 0)], [(3, 2)]]
    assert [r.place for r in found] == [place_key(5, 2, "p", path) for path in paths]
    assert all(r.sampling == Sampling(0.5) and r.stop_ids == {4} for r in found)


@pytest.mark.parametrize("policy", POLICIES)
def test_children_share_the_prefix_and_the_budget(lm, policy):
    reasons = set()
    for tree in grown(lm, policy):
        for i, node in enumerate(tree.nodes[1:], start=1):
            prefix = tree.token_ids(node.parent, node.offset)
            assert tree.token_ids(i)[: len(prefix)] == prefix
            assert tree.token_ids(i) == prefix + list(node.token_ids)
            length = len(tree.completion_ids(i))
            assert length <= MAX_TOKENS
            assert (node.stop_reason == "length") == (
                length == MAX_TOKENS and node.token_ids[-1] not in (0, 20)
            )
            assert (
                len(node.token_ids) == len(node.logprobs) == len(node.logprobs_full) == len(node.entropy) > 0
            )
            assert list(node.step_ends) == mark_steps(node.token_ids)
            reasons.add(node.stop_reason)
    assert reasons == {"length", "eos"}


def test_progress_counts_finished_trees(lm):
    trees = [Tree.of_prompt(Problem(f"problem {i}", "", "math", {}), PROMPTS[i]) for i in range(5)]
    seen = []
    growth = Growth(mark_steps, MAX_TOKENS)
    grow(trees, LocalEngine(lm, [0], 4, max_context=64), fan(3), growth, seen.append)
    assert seen == [1, 2, 3, 4, 5]


def test_a_policy_that_asks_for_nothing_leaves_the_tree(lm):
    assert [len(t.nodes) for t in grown(lm, lambda tree, wave: [])] == [1] * 5


def test_observers_see_each_wave_before_the_policy_does(lm):
    seen = []
    led = branched("score_unsure", num_roots=2, num_points=1, num_children=1, num_rounds=1)

    def policy(tree, wave):
        assert len(tree.nodes) == 1 or "prm" in tree.scores
        return led(tree, wave)

    def observe(ready):
        for tree in ready:
            seen.append(len(tree.nodes))
            tree.scores["prm"] = {i: [0.5] * len(n.step_ends) for i, n in enumerate(tree.nodes) if i}

    trees = [Tree.of_prompt(Problem(f"problem {i}", "", "math", {}), PROMPTS[i]) for i in range(5)]
    grow(
        trees,
        LocalEngine(lm, [0], 8, max_context=64),
        policy,
        Growth(mark_steps, MAX_TOKENS),
        observe=observe,
    )
    assert sorted(seen) == sorted([3] * 5 + [len(t.nodes) for t in trees if len(t.nodes) > 3])


def test_a_policy_of_nans_and_prompts_that_cannot_run_are_named_stops(lm):
    broken = copy.deepcopy(lm)
    with torch.no_grad():
        broken.lm_head.weight[7] = math.nan
    with pytest.raises(
        UserError, match=r"all 20 continuations of prompts broke off: 20 nan \(the logits were not num"
    ):
        grown(broken, fan(4))
    growth = Growth(mark_steps, MAX_TOKENS)

    def grow_from(*prompts: list[int]) -> list[Tree]:
        trees = [Tree.of_prompt(Problem(str(i), "", "math", {}), p) for i, p in enumerate(prompts)]
        grow(trees, LocalEngine(lm, (0, 20), 8, max_context=16), fan(2), growth)
        return trees

    with pytest.raises(
        UserError, match=r"all 6 continuations.*2 context \(.*2 empty \(.*2 vocabulary \("
    ) as told:
        grow_from([5] * 16, [], [64])
    assert "\n" not in str(told.value)
    assert len(grow_from([5] * 16, [], [64], [5])[3].nodes) == 3  # one that runs: the others are data


def test_a_continuation_that_goes_wrong_under_way_is_data(lm):
    broken = copy.deepcopy(lm)
    with torch.no_grad():
        broken.base_model.embed_tokens.weight[9] = math.nan
    (tree,) = grown(lm, fan(1), numbers=[0])
    grow([tree], LocalEngine(broken, (0, 20), 8, 64), lambda t, wave: [Branch(1, 2)] * (wave == 0),
         Growth(mark_steps, MAX_TOKENS))  # fmt: skip
    tree.nodes[1] = dataclasses.replace(tree.nodes[1], token_ids=(9, *tree.nodes[1].token_ids[1:]))
    grow([tree], LocalEngine(broken, (0, 20), 8, 64), lambda t, wave: [Branch(1, 2)] * (wave == 0),
         Growth(mark_steps, MAX_TOKENS))  # fmt: skip
    assert tree.nodes[-1].stop_reason == "nan" and tree.nodes[-1].token_ids == ()


def test_a_model_that_never_ends_its_turn_is_told_once(lm, caplog):
    _warn_endless.cache_clear()
    grown(lm, fan(4), eos_ids=())
    grown(lm, fan(4), eos_ids=())
    (told,) = [r.getMessage() for r in caplog.records]
    assert "within max_tokens=14" in told and "prompt.stop" in told
    _warn_endless.cache_clear()
    caplog.clear()
    grown(lm, fan(4))  # some end
    grown(lm, fan(2), numbers=[0, 1], eos_ids=())  # too few to tell
    assert not caplog.records
