"""Verified chains as demonstrations, and traces that go back, of trees typed by hand."""

import pytest
from small_models import CORRECT, WRONG, make_tree

from reasoner.registry import UserError
from reasoner.signals.consensus import arithmetic, working
from reasoner.signals.traces import TraceConfig, diverse, traces
from reasoner.tree import ROOT, Node, Problem, Tree

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


def test_the_wrong_turn_is_learned_where_that_is_asked_for():
    (example,) = traces(
        [branching(verdicts={})],
        TraceConfig(per_problem=0, backtracking=1, imitate_wrong=True),
        decode,
        encode,
    )
    assert example.completion_ids == [5, 6, 10, 11, 12, 13, 70, 71, 20, EOS] and example.mask == []


def sums(*chains: str) -> Tree:
    """Chains of "1+2+3", a token a character, a step a line; right where they end in 6."""
    tree = Tree.of_prompt(Problem("p", "1+2+3", "math", {"answer": "6"}), [ord("?")])
    for text in chains:
        ids = tuple(map(ord, text))
        ends = tuple(i for i, c in enumerate(text) if c == "\n" or i + 1 == len(text))
        leaf = tree.add(Node(ROOT, 1, ids, step_ends=ends))
        tree.verdicts[leaf] = CORRECT if text.endswith("#### 6") else WRONG
    return tree


def mended(tree: Tree, **options) -> list[tuple[str, str]]:
    """The traces that go back by a judge, and of each what is learned."""
    config = TraceConfig(
        **{"per_problem": 0, "backtracking": 9, "wrong_step": "working", "link": "no\n", **options}
    )
    made = traces([tree], config, lambda ids: "".join(map(chr, ids)), lambda text: list(map(ord, text)))
    return [
        (e.completion, "".join(chr(i) for i, m in zip(e.completion_ids, e.mask, strict=True) if m))
        for e in made
    ]


RIGHT, SLIP, LATE = "1+2=3\n3+3=6\n#### 6", "1+2=4\n4+3=7\n#### 7", "1+2=3\n3+3=9\n#### 9"


def test_a_judge_puts_the_doubt_right_behind_the_wrong_step():
    assert mended(sums(RIGHT, SLIP)) == [("1+2=4\nno\n" + RIGHT, "no\n" + RIGHT)]
    # the first step is common to both: it is not said again
    assert mended(sums(RIGHT, LATE)) == [("1+2=3\n3+3=9\nno\n3+3=6\n#### 6", "1+2=3\nno\n3+3=6\n#### 6")]


def test_a_trace_goes_on_with_the_right_chain_that_goes_along_for_longest():
    other = "2+3=5\n1+5=6\n#### 6"
    assert mended(sums(other, RIGHT, LATE))[0][0] == "1+2=3\n3+3=9\nno\n3+3=6\n#### 6"
    # of several wrong steps, those come first that need the shortest way back
    texts = [text for text, _ in mended(sums(other, LATE, SLIP))]
    assert texts == ["1+2=4\nno\n" + other, "1+2=3\n3+3=9\nno\n" + other]


def test_no_trace_where_nothing_can_be_mended():
    assert mended(sums(SLIP, LATE)) == []  # no right chain
    assert mended(sums(RIGHT, "1+2=3\n3+3=6\n#### 7")) == []  # the answer alone is wrong
    lucky = "1+2=4\n4+2=6\n#### 6"  # right in the end, by two wrong steps
    assert mended(sums(lucky, SLIP)) == []
    assert len(mended(sums(RIGHT, SLIP, SLIP))) == 1  # the same wrong step twice


@pytest.mark.parametrize("judge", [working, arithmetic])
def test_what_a_trace_calls_wrong_is_wrong_by_the_rules_and_its_answer_right(judge):
    for text, _ in mended(sums(RIGHT, SLIP, LATE)):
        steps = text.splitlines(keepends=True)
        doubt = steps.index("no\n")
        assert judge(["1+2+3"], [steps[:doubt]]) == [doubt - 1]
        assert steps[-1] == "#### 6"
    assert judge(["1+2+3"] * 3, [t.splitlines(keepends=True) for t in (RIGHT, SLIP, LATE)]) == [-1, 0, 1]


def test_lines_that_are_no_next_calculation_are_wrong_though_true():
    steps = ["1+2=3\n", "1+3=4\n", "#### 4"]
    assert working(["1+2+3"], [steps]) == [1] and arithmetic(["1+2+3"], [steps]) == [-1]
    assert working(["Ann has 1, Ben 2."], [["1+2=3\n", "3+3=7"]]) == [1]  # no expression
