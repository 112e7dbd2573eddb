"""Growing trees: the same trees whatever the batching, and the shapes that each branch policy asks for."""

import copy
import dataclasses
import math
from dataclasses import replace

import pytest
import torch
from small_models import branching_tree, small_lm

from reasoner.config import ConfigError, validate
from reasoner.engine.local import LocalEngine
from reasoner.engine.protocol import Sampling, place_key
from reasoner.registry import UserError
from reasoner.search.branch import (
    WHOLE_CHAIN,
    BranchConfig,
    highest_entropy,
    score_falls,
    score_unsure,
    spread_steps,
    tree_of,
)
from reasoner.search.chain import fan
from reasoner.search.grow import Branch, Growth, StepStop, _requests, _warn_endless, grow, place_paths
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.tree import ROOT, Node, Problem, Tree

PROMPTS = [[3, 1, 4, 1, 5], [2, 7, 1, 8], [1, 6, 1], [3, 1, 4, 1, 6, 6], [9]]
MAX_TOKENS = 14


@pytest.fixture(scope="module")
def lm():
    return small_lm("qwen2")


def mark_steps(tokens, logprobs=(), before=()) -> list[int]:
    """A step ends at each token below 16, and at the last."""
    return [i for i, t in enumerate(tokens) if t < 16 or i == len(tokens) - 1]


def grown(lm, policy, numbers=range(5), num_slots=8, eos_ids=(0, 20), **options) -> list[Tree]:
    trees = [Tree.of_prompt(Problem(f"problem {i}", "", "math", {}), PROMPTS[i]) for i in numbers]
    engine = LocalEngine(lm, eos_ids, num_slots, max_context=64)
    grow(trees, engine, policy, Growth(mark_steps, MAX_TOKENS, **options))
    return trees


def shape(tree: Tree) -> list:
    return [(n.parent, n.offset, n.token_ids, n.step_ends, n.stop_reason) for n in tree.nodes]


STEP_STOP = StepStop(frozenset(range(16)))
RULES = ("entropy", "every_step", "coin", "spread_steps", "highest_entropy")


def branched(where: str, **options):
    config = BranchConfig(num_roots=3, where=where, num_points=2, num_children=2, num_rounds=2)
    return tree_of(config.model_copy(update=options), Growth(mark_steps, MAX_TOKENS, step_stop=STEP_STOP))


POLICIES = [branched(where) for where in RULES]


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


def waves(tree: Tree) -> list[int]:
    depth = [0]
    for node in tree.nodes[1:]:
        depth.append(depth[node.parent] + 1)
    return depth


def inner_step_ends(node: Node) -> list[int]:
    return [i + 1 for i in node.step_ends if i + 1 < len(node.token_ids)]


def test_branches_at_step_ends(lm):
    num_branched = 0
    for tree in grown(lm, branched("spread_steps")):
        depth = waves(tree)
        assert depth.count(1) == 3 and max(depth) <= 3
        for i, node in enumerate(tree.nodes[1:], start=1):
            offsets = [tree.nodes[c].offset for c in tree.children(i)]
            states = inner_step_ends(node)
            if depth[i] < 3:
                assert len(offsets) == 2 * min(2, len(states))  # two children at each of at most two states
            assert set(offsets) <= set(states)
            assert all(offsets.count(o) == 2 for o in offsets)
            num_branched += bool(offsets)
    assert num_branched > 10


def test_branches_where_entropy_is_highest(lm):
    num_branched = 0
    for tree in grown(lm, branched("highest_entropy")):
        depth = waves(tree)
        for i, node in enumerate(tree.nodes[1:], start=1):
            offsets = sorted({tree.nodes[c].offset for c in tree.children(i)})
            if depth[i] == 3:
                assert offsets == []
                continue
            assert len(offsets) == min(2, len(node.token_ids) - 1)
            # the entropy at position i is that of the distribution from which token i was drawn
            others = [e for j, e in enumerate(node.entropy) if j not in offsets and j > 0]
            assert all(node.entropy[o] >= max(others, default=0) for o in offsets)
            num_branched += len(offsets)
    assert num_branched > 10


def after(tree: Tree, node: int, offset: int, rest: Node) -> Tree:
    """The tree as it would be, had another rest come after a state, and no later wave."""
    n = tree.nodes[node]
    cut = {
        name: (
            *getattr(n, name)[: offset + (name == "entropy")],
            *getattr(rest, name)[offset + (name == "entropy") :],
        )
        for name in ("token_ids", "logprobs", "logprobs_full", "entropy")
    }
    cut["step_ends"] = tuple(mark_steps(cut["token_ids"]))
    nodes = [m for m in tree.nodes if m.parent in (-1, ROOT)]
    nodes[node] = replace(n, **cut)
    return Tree(tree.problem, nodes)


@pytest.mark.parametrize("where", ["entropy", "every_step", "coin", "spread_steps", "highest_entropy"])
def test_what_comes_after_a_state_has_no_say_in_it(lm, where):
    """By the rules of the prefix; those that look at the whole chain do change their mind."""
    policy = branched(where, num_rounds=1)
    changed = branched_at = 0
    for tree in grown(lm, policy):
        for node in (1, 2, 3):
            chosen = {
                b.offset for b in policy(after(tree, node, 99, tree.nodes[node]), 1) if b.parent == node
            }
            branched_at += len(chosen)
            for offset in range(1, len(tree.nodes[node].token_ids)):
                for rest in tree.nodes[1:4]:
                    if len(rest.token_ids) <= offset:
                        continue
                    other = after(tree, node, offset, rest)
                    again = {b.offset for b in policy(other, 1) if b.parent == node}
                    changed += {o for o in again if o <= offset} != {o for o in chosen if o <= offset}
    assert branched_at > 10
    assert (changed > 0) == (where in WHOLE_CHAIN)


def offsets_of(where: str, ids, entropy=(), older=(), seed: int = 0, **options) -> list[int]:
    """Where a chain of these tokens branches, after older chains of these entropies."""
    tree = Tree.of_prompt(Problem("p", "", "math", {}), [1])
    for of_chain in older:
        tree.add(Node(ROOT, 1, (99,) * len(of_chain), entropy=of_chain))
    node = tree.add(Node(ROOT, 1, tuple(ids), entropy=entropy or (0.0,) * len(ids)))
    config = BranchConfig(where=where, num_children=1).model_copy(update=options)
    growth = Growth(mark_steps, MAX_TOKENS, seed=seed, step_stop=STEP_STOP)
    return [b.offset for b in tree_of(config, growth)(tree, 1) if b.parent == node]


def test_every_step_is_the_first_step_ends():
    ids = (20, 5, 21, 6, 7, 22, 8)  # steps end after 5, 6, 7 and, with the chain, after 8
    assert [offsets_of("every_step", ids, num_points=n) for n in (0, 1, 2, 9)] == [[], [2], [2, 4], [2, 4, 5]]


def test_coins_are_of_the_place():
    ids = (5,) * 400
    found = offsets_of("coin", ids, num_points=400, share=0.25)
    assert found == offsets_of("coin", ids, num_points=400, share=0.25)
    assert found != offsets_of("coin", ids, num_points=400, share=0.25, seed=1)
    assert len(found) == pytest.approx(0.25 * 399, abs=4 * (399 * 0.25 * 0.75) ** 0.5)
    assert set(found) < set(offsets_of("coin", ids, num_points=400, share=0.75))
    assert offsets_of("coin", (5, 25, 5, 25, 25), num_points=9, share=1.0) == [1, 3]


def test_entropy_follows_what_was_seen_before():
    # one point in chains of 8 tokens: a quarter of the inner states may lie above the threshold
    older = [(9.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
    # of 7 seen the second largest is 0.6; then of 8, 9 and 10 seen (with 0.5, 0.55 and 0.58) still 0.6
    low = (9.0, 0.5, 0.55, 0.58, 0.65, 2.0, 0.0, 3.0)
    assert offsets_of("entropy", range(8), low, older, num_points=1) == [4]
    assert offsets_of("entropy", range(8), (9.0, *[0.1] * 7), older, num_points=1) == []
    # an older chain of certain tokens lowers the bar, and no token that is certain branches
    assert offsets_of("entropy", range(3), (9.0, 0.0, 0.2), [(9.0, 0.0, 0.0, 0.0)], num_points=1) == [2]
    # without an older chain: the tenth part of what came before, so none before six are seen
    rising = tuple(i / 10 for i in range(12))
    assert offsets_of("entropy", range(12), rising, num_points=9) == [7, 8, 9, 10, 11]


def test_rules_that_cannot_work_say_so():
    tree = Tree.of_prompt(Problem("p", "", "math", {}), [1])
    tree.add(Node(ROOT, 1, (5, 6, 7)))
    growth = Growth(mark_steps, MAX_TOKENS)
    with pytest.raises(UserError, match="does not tell the entropy"):
        tree_of(BranchConfig(where="entropy"), growth)(tree, 1)
    with pytest.raises(UserError, match="expected the step rule delimiter or count"):
        tree_of(BranchConfig(where="every_step"), growth)(tree, 1)
    with pytest.raises(UserError, match="spread_steps"):
        tree_of(BranchConfig(where="spread_step"), growth)


@pytest.mark.parametrize("where", sorted(WHOLE_CHAIN))
def test_a_policy_gradient_refuses_rules_that_look_ahead(where):
    with pytest.raises(ConfigError, match=r"biases a policy gradient.*entropy, every_step, coin"):
        validate(PolicyGradientStage, {"tree": {"where": where}}, "test")
    assert validate(PolicyGradientStage, {}, "test").tree.where == "entropy"


@pytest.mark.parametrize(
    ("num_points", "offsets"), [(0, []), (1, [7]), (2, [5, 9]), (3, [3, 7, 9]), (9, [3, 5, 7, 9])]
)
def test_spread_steps(num_points, offsets):
    tree = Tree.of_prompt(Problem("p", "", "math", {}), [1])
    tree.add(Node(ROOT, 1, tuple(range(11)), step_ends=(2, 4, 6, 8, 10)))
    assert spread_steps(tree, 1, num_points) == offsets


def test_highest_entropy_never_takes_the_first_token():
    tree = Tree.of_prompt(Problem("p", "", "math", {}), [1])
    tree.add(Node(ROOT, 1, (5, 6, 7, 8), entropy=(9.0, 0.1, 0.7, 0.3)))
    assert highest_entropy(tree, 1, 1) == [2]
    assert highest_entropy(tree, 1, 2) == [2, 3]
    assert highest_entropy(tree, 1, 9) == [1, 2, 3]


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


def scored_chain() -> Tree:
    tree = Tree.of_prompt(Problem("p", "", "math", {}), [1])
    tree.add(Node(ROOT, 1, tuple(range(10)), step_ends=(1, 3, 5, 7, 9)))
    tree.scores["prm"] = {1: [0.9, 0.4, 0.8, 0.55, 0.5]}
    return tree


@pytest.mark.parametrize(
    ("rule", "num_points", "offsets"),
    [
        (score_falls, 1, [2]),  # -0.5 in the second step: branch before it
        (score_falls, 2, [2, 6]),
        (score_falls, 9, [2, 6, 8]),  # a step that raises the score is none
        (score_unsure, 1, [8]),  # 0.55; the last step's end is the chain's
        (score_unsure, 2, [4, 8]),
    ],
)
def test_branches_led_by_scores(rule, num_points, offsets):
    assert rule(scored_chain(), 1, num_points) == offsets


def test_branching_by_scores_needs_them():
    tree = Tree.of_prompt(Problem("p", "", "math", {}), [1])
    tree.add(Node(ROOT, 1, (5, 6), step_ends=(0, 1)))
    with pytest.raises(UserError, match="needs a PRM"):
        score_falls(tree, 1, 1)


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
