"""Path weights and mean outcomes on a tree with uneven branching, worked out by hand."""

import numpy as np
import pytest
from small_models import CORRECT, ERROR, WRONG, branching_tree, make_tree

from reasoner.signals.backup import leaf_weights, mean_outcomes, path_weights
from verifiers import Verdict


def test_path_weights():
    found = [w.tolist() for w in path_weights(branching_tree())]
    assert found == [
        [1, 1, 1, 1],
        # a half of the prompt's two; a half of that goes on past each of the two inner branches
        [1 / 2, 1 / 2, 1 / 2, 1 / 4, 1 / 8, 1 / 8, 1 / 8],
        [1 / 2, 1 / 2, 1 / 2, 1 / 2],
        [1 / 8, 1 / 8, 1 / 8],
        [1 / 4, 1 / 8, 1 / 8, 1 / 8],
        [1 / 8, 1 / 8],
        [1 / 8, 1 / 8, 1 / 8],
    ]


def test_leaf_weights_add_up_to_one():
    assert leaf_weights(branching_tree()) == {1: 1 / 8, 2: 1 / 2, 4: 1 / 8, 5: 1 / 8, 6: 1 / 8}


def test_uneven_branching_leaves_the_chains_their_shares():
    # three chains; the first has four branches at one state, the second one node continued twice at its end
    tree = make_tree([1], *[(0, 1, [5, 6], [0, 1])] * 3, *[(1, 1, [7], [0])] * 4, *[(2, 2, [8], [0])] * 2)
    found = leaf_weights(tree)
    assert found == pytest.approx(
        {1: 1 / 15, 3: 1 / 3, 4: 1 / 15, 5: 1 / 15, 6: 1 / 15, 7: 1 / 15, 8: 1 / 6, 9: 1 / 6}
    )
    assert sum(found.values()) == pytest.approx(1)


def test_a_weight_at_a_token_is_that_of_the_leaves_below():
    tree = branching_tree()
    below = [np.zeros(len(n.token_ids)) for n in tree.nodes]
    for leaf, weight in leaf_weights(tree).items():
        for span in tree.path(leaf):
            below[span.node][: span.end] += weight
    for found, expected in zip(path_weights(tree), below, strict=True):
        assert found[:-1] == pytest.approx(expected)


def test_mean_outcomes_mask_errors():
    found = mean_outcomes(branching_tree())  # 1 and 4 are correct, 2 and 6 wrong, 5 is our error
    assert found[0].tolist() == pytest.approx([2 / 7] * 4)
    assert found[1].tolist() == pytest.approx([2 / 3] * 4 + [1] * 3)
    assert found[2].tolist() == [0] * 4
    assert np.isnan(found[3]).all() and np.isnan(found[5]).all()
    assert found[4].tolist() == [1 / 2, 1 / 2, 1, 1]
    assert found[6].tolist() == [0] * 3


def test_unjudged_leaves_and_missing_answers():
    tree = make_tree([1], *[(0, 1, [5], [0])] * 4)
    assert np.isnan(mean_outcomes(tree)[0]).all()
    tree.verdicts.update({1: CORRECT, 2: Verdict("no_answer", "unparseable"), 3: ERROR})
    assert mean_outcomes(tree)[0].tolist() == [1 / 2, 1 / 2]
    tree.verdicts[3] = WRONG
    assert mean_outcomes(tree)[0].tolist() == pytest.approx([1 / 3, 1 / 3])
