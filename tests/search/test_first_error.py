"""First-error bisection on a reasoner that never recovers, where the truth is plain, and its choices by hand."""

import math

import pytest
from markov import BAD, EOS, RIGHT, MarkovEngine, judge, mark_steps, markov_trees
from small_models import CORRECT, ERROR, WRONG, make_tree

from reasoner.registry import UserError
from reasoner.search.chain import fan
from reasoner.search.first_error import BisectConfig, _bracket, _Pool, bisect, cheapest, first_error, middle
from reasoner.search.grow import Branch, Growth, grow
from reasoner.tree import ROOT, Node, counts

K = 16


def true_error(tree, node) -> int:
    return tree.nodes[node].token_ids.index(BAD)


def searched(config, count=60, error=0.02, recovery=0.0, given=False, seed=0):
    """Trees after bisection; `given` puts a wrong chain into each and asks only for its first error."""
    engine = MarkovEngine(K, error, recovery)
    trees = markov_trees(count)
    growth = Growth(mark_steps, K + 1, seed=seed)
    if given:
        for i, tree in enumerate(trees):
            steps = [RIGHT] * (i % K) + [BAD] * (K - i % K)
            tree.add(Node(ROOT, 1, (*steps, EOS), step_ends=(*range(K - 1), K)))
            tree.verdicts[1] = WRONG
    grow(trees, engine, bisect(config), growth, observe=judge)
    return engine, trees


@pytest.mark.parametrize("probe", ["middle", "cheapest"])
@pytest.mark.parametrize("early_stop", [True, False])
def test_first_errors_are_the_true_ones(probe, early_stop):
    config = BisectConfig(need_mixed=False, probe=probe, early_stop=early_stop)
    _, trees = searched(config, given=True)
    assert [first_error(t, 1) for t in trees] == [true_error(t, 1) for t in trees]
    for tree in trees:
        states = {(n.parent, n.offset) for n in tree.nodes[2:]}
        if probe == "middle":
            assert len(states) == 4  # log2 of 16 steps
        for state in states:
            drawn = counts(tree, *state)
            if early_stop:  # ends with its first success
                assert (drawn.n, drawn.c) == (8, 0) or drawn.c == 1
            else:
                assert drawn.n == 8


def test_bisection_costs_less_than_half_of_labelling_every_step():
    config = BisectConfig(need_mixed=False)
    engine, trees = searched(config, given=True)

    def every_step(tree, wave):
        ends = [e + 1 for e in tree.nodes[1].step_ends[:-1]]
        return [Branch(1, e) for e in ends if wave < 8 and not counts(tree, 1, e).c]

    plain, labelled = MarkovEngine(K, 0.02, 0.0), searched(BisectConfig(), 60)[1]
    for tree, other in zip(labelled, trees, strict=True):
        tree.nodes[1:], tree.verdicts = other.nodes[1:2], {1: WRONG}
    grow(labelled, plain, every_step, Growth(mark_steps, K + 1), observe=judge)
    assert [first_error(t, 1) for t in labelled] == [first_error(t, 1) for t in trees]
    assert engine.decoded < plain.decoded / 2


def test_cheapest_probes_cost_less_than_middle_ones():
    costs = {
        p: searched(BisectConfig(need_mixed=False, probe=p), given=True)[0].decoded
        for p in ("middle", "cheapest")
    }
    assert costs["cheapest"] < 0.9 * costs["middle"]


def test_probes_by_hand():
    even = [1.0] * 17
    assert middle(0, 16, even, 1.0, 8) == 8
    assert cheapest(0, 2, even, 1.0, 8) == 1
    # a failure costs as much as a success: the middle
    assert cheapest(0, 4, even, 1.0, 1) == 2
    # a failure costs eight times a success: scan from the left. Three places from 0 to 3:
    # first step: (8 + 2 · 1) / 3 + 2/3 · 4.5 = 6.33; second: (2 · 8 + 1) / 3 + 2/3 · 4.5 = 8.67
    assert cheapest(0, 3, even, 1.0, 8) == 1
    # where late rollouts are nearly free, probing late pays
    assert cheapest(0, 4, [9, 9, 9, 0.01, 0.0], 1.0, 1) == 3


def test_whole_search_from_the_prompt():
    config = BisectConfig(num_searches=3)
    _, trees = searched(config, error=0.05)
    num_searched = num_true = 0
    for tree in trees:
        first = counts(tree, ROOT, 1)
        assert first.n == 8
        if first.c in (0, 8):  # too hard or too easy: nothing more is spent
            assert len(tree.nodes) == 9
            continue
        found = [
            i for i in range(1, len(tree.nodes)) if first_error(tree, i) is not None and tree.children(i)
        ]
        num_searched += len(found)
        # a chain that begins at a good state and failed is never probed twice
        assert 1 <= len({n.parent for n in tree.nodes[9:]}) <= 3
        for i in found:
            steps = tree.completion_ids(i)
            before = len(steps) - len(tree.nodes[i].token_ids)
            num_true += before + first_error(tree, i) == steps.index(BAD)
    assert num_searched > 60 and num_true > 0.9 * num_searched  # a good state may fail eight times


def test_bracket_by_hand():
    tree = make_tree([1], (0, 1, list(range(5, 11)), range(6)))
    tree.verdicts[1] = WRONG
    ends = [1, 2, 3, 4, 5, 6]

    def draw(offset, *verdicts):
        for verdict in verdicts:
            tree.verdicts[tree.add(Node(1, offset, (9,), step_ends=(0,)))] = verdict

    assert _bracket(tree, 1, ends) == (0, 6) and first_error(tree, 1) is None
    draw(4, WRONG, WRONG)
    assert _bracket(tree, 1, ends) == (0, 4)
    draw(2, WRONG, CORRECT)
    assert _bracket(tree, 1, ends) == (2, 4) and first_error(tree, 1) is None
    draw(3, ERROR)  # not judged: nothing is known
    assert _bracket(tree, 1, ends) == (2, 4)
    draw(3, WRONG)
    assert _bracket(tree, 1, ends) == (2, 3) and first_error(tree, 1) == 2
    draw(4, CORRECT)  # a late success: all before is good
    assert _bracket(tree, 1, ends) == (4, 6)
    tree.verdicts[1] = CORRECT
    assert first_error(tree, 1) is None


def test_confirming_probes_ask_again_where_the_error_was_found():
    plain, confirmed = (
        searched(BisectConfig(need_mixed=False, num_confirm=n), given=True)[1] for n in (0, 5)
    )
    for tree, more in zip(plain, confirmed, strict=True):
        assert first_error(tree, 1) == first_error(more, 1)
        error = first_error(more, 1)
        if error < K - 1:  # the last step is bad by the verdict
            offset = more.nodes[1].step_ends[error] + 1
            assert (counts(tree, 1, offset), counts(more, 1, offset)) == ((8, 0, 0), (13, 0, 0))


def test_pool_takes_the_best_and_counts_visits():
    tree = make_tree([1], (0, 1, [5] * 10, [4, 9]), (0, 1, [6] * 2, [0, 1]), *[(1, 5, [7], [0])] * 4)
    tree.verdicts.update({1: WRONG, 2: CORRECT, 3: CORRECT, 4: CORRECT, 5: CORRECT, 6: WRONG})
    config = BisectConfig(length_scale=10, exploration=0.5)
    pool = _Pool(config)
    pool.add((ROOT, 1), [1])
    pool.add((1, 5), [6])
    # Q: 0.5 ** 0.5 · 0.9 = 0.636 at the prompt, 0.5 ** 0.25 · 0.9 ** 0.1 = 0.832 at the state with 3 of 4
    assert pool.pop(tree) == ((1, 5), 6)
    assert pool.visits == {(ROOT, 1): 0, (1, 5): 1}
    pool.add((1, 5), [6])
    # U: 0.5 · sqrt(1) / 1 at the prompt against 0.5 / 2
    assert 0.5**0.5 * 0.9 + 0.5 > 0.5**0.25 * 0.9**0.1 + 0.25
    assert pool.pop(tree) == ((ROOT, 1), 1)
    # one item of the state (1, 5) is left, so only its visit counts
    assert pool.items == [((1, 5), 6)] and math.isclose(sum(pool.visits[s] for s in {(1, 5)}), 1)


def test_no_verdicts_is_an_error():
    with pytest.raises(UserError, match="finds no verdicts"):
        grow(
            markov_trees(1),
            MarkovEngine(K, 0.1, 0.0),
            bisect(BisectConfig(need_mixed=False)),
            Growth(mark_steps, K + 1),
        )


def test_same_draws_as_any_other_policy():
    _, trees = searched(BisectConfig(), count=3)
    other = markov_trees(3)
    grow(other, MarkovEngine(K, 0.02, 0.0), fan(8), Growth(mark_steps, K + 1))
    assert [t.nodes[1:9] for t in trees] == [t.nodes[1:9] for t in other]
