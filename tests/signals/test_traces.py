"""Verified chains as demonstrations, and traces that go back, of trees typed by hand."""

import pytest
from small_models import CORRECT, WRONG, make_tree

from reasoner.registry import UserError
from reasoner.signals.traces import TraceConfig, diverse, traces

EOS = 99


def decode(ids) -> str:
    return " ".join(map(str, ids))


def encode(text: str) -> list[int]:
    return [70, 71] if text else []


def found(tree, **options) -> list[tuple]:
    made = traces([tree], TraceConfig(**options), decode, encode)
    return [(e.completion_ids, e.mask) for e in made]


def right_chains():
    return make_tree(
        [1],
        (0, 1, [5, 6, 7, 8, EOS], [4]),
        (0, 1, [5, 6, 7, EOS], [3]),
        (0, 1, [5, 6, 7, EOS], [3]),  # the same tokens again
        (0, 1, [20, 21, 22, 23, 24, EOS], [5]),
        (0, 1, [30, EOS], [1]),  # wrong
        verdicts={1: CORRECT, 2: CORRECT, 3: CORRECT, 4: CORRECT, 5: WRONG},
    )


def test_right_chains_by_length_by_likeness_and_in_order():
    a, b, c = [5, 6, 7, 8, EOS], [5, 6, 7, EOS], [20, 21, 22, 23, 24, EOS]
    assert [ids for ids, _ in found(right_chains(), pick="shortest", per_problem=2)] == [b, a]
    assert [ids for ids, _ in found(right_chains(), pick="diverse", per_problem=2)] == [b, c]
    assert [ids for ids, _ in found(right_chains(), pick="first", per_problem=9)] == [a, b, c]
    assert found(right_chains(), per_problem=0) == []
    assert diverse([], 3) == []


def test_a_chain_that_was_cut_is_no_demonstration():
    tree = make_tree([1], (0, 1, [5, 6], [1]), verdicts={1: CORRECT})
    assert len(found(tree)) == 1
    import dataclasses

    tree.nodes[1] = dataclasses.replace(tree.nodes[1], stop_reason="length")
    assert found(tree) == []


def test_an_unknown_choice_is_named():
    with pytest.raises(UserError, match="did you mean shortest"):
        found(right_chains(), pick="shortes")


def branching(*probes, verdicts):
    """A common step 5 6, then 10 11 | 12 13 | 14 EOS (wrong) against 20 EOS (right)."""
    return make_tree(
        [1],
        (0, 1, [5, 6, 10, 11, 12, 13, 14, EOS], [1, 3, 5, 7]),
        (1, 2, [20, EOS], [1]),
        *probes,
        verdicts={1: WRONG, 2: CORRECT} | verdicts,
    )


def test_a_trace_that_goes_back_keeps_the_wrong_turn_out_of_the_loss():
    ids, mask = found(branching(verdicts={}), per_problem=0, backtracking=1)[0]
    # nothing was tried on the way: all steps but the last, which holds the answer
    assert ids == [5, 6, 10, 11, 12, 13, 70, 71, 20, EOS]
    assert mask == [1, 1, 0, 0, 0, 0, 1, 1, 1, 1]


def test_the_wrong_turn_ends_where_it_is_known_dead():
    dead = branching((1, 4, [30, EOS], [1]), verdicts={3: WRONG})
    assert found(dead, per_problem=0, backtracking=1)[0][0] == [5, 6, 10, 11, 70, 71, 20, EOS]
    alive = branching((1, 4, [30, EOS], [1]), verdicts={3: CORRECT})
    assert [ids for ids, _ in found(alive, per_problem=0, backtracking=9) if 71 in ids[:6]] == []


def test_a_branch_inside_a_step_goes_back_to_the_step_before():
    tree = make_tree(
        [1],
        (0, 1, [5, 6, 10, 11, 12, 13, EOS], [1, 4, 6]),
        (1, 3, [21, 22, EOS], [0, 2]),  # branches after 10, inside the second step
        verdicts={1: WRONG, 2: CORRECT},
    )
    ids, mask = found(tree, per_problem=0, backtracking=1)[0]
    assert ids == [5, 6, 10, 11, 12, 70, 71, 10, 21, 22, EOS]
    assert mask == [1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1]
