"""Branch rules: the states that each chooses, and which of them look at what came after."""

from dataclasses import replace

import pytest
from small_models import small_lm

from reasoner.config import ConfigError, validate
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
from reasoner.search.grow import Growth
from reasoner.trainers.policy_config import PolicyGradientStage
from reasoner.tree import ROOT, Node, Problem, Tree
from tests.search.growing import MAX_TOKENS, STEP_STOP, branched, grown, mark_steps


@pytest.fixture(scope="module")
def lm():
    return small_lm("qwen2")


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
