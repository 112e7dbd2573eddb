"""Sibling preference pairs of trees typed by hand."""

from small_models import CORRECT, ERROR, WRONG, make_tree

from reasoner.signals.pairs import PairConfig, sibling_pairs


def decode(ids) -> str:
    return " ".join(map(str, ids))


def wide_tree():
    return make_tree(
        [1, 2],
        (0, 2, [5, 6, 7], [1, 2]),  # 1 correct
        (0, 2, [8], [0]),  # 2 wrong
        (0, 2, [5, 6, 7], [1, 2]),  # 3 correct, the same tokens as 1
        (0, 2, [9], [0]),  # 4 our error
        (0, 2, [10], [0]),  # 5 correct
        (0, 2, [11], [0]),  # 6 wrong
        (0, 2, [8], [0]),  # 7 wrong, the same tokens as 2
        (1, 2, [12], [0]),  # 8 wrong
        (1, 2, [13], [0]),  # 9 correct
        (1, 1, [14], [0]),  # 10 wrong, without a sibling
        verdicts={
            1: CORRECT, 2: WRONG, 3: CORRECT, 4: ERROR, 5: CORRECT, 6: WRONG, 7: WRONG, 8: WRONG, 9: CORRECT,
            10: WRONG,
        },
    )  # fmt: skip


def found(config: PairConfig) -> list[tuple]:
    return [
        (p.prompt_ids, p.chosen_ids, p.rejected_ids) for p in sibling_pairs([wide_tree()], config, decode)
    ]


AT_PROMPT = [([1, 2], [5, 6, 7], [8]), ([1, 2], [10], [11])]
INSIDE = ([1, 2, 5, 6], [13], [12])


def test_pairs_at_every_branch_state():
    assert found(PairConfig()) == [*AT_PROMPT, INSIDE]
    assert found(PairConfig(per_state=9)) == [*AT_PROMPT, INSIDE]  # duplicates make no further pair


def test_limits():
    assert found(PairConfig(per_state=1)) == [AT_PROMPT[0], INSIDE]
    assert found(PairConfig(per_problem=2)) == AT_PROMPT
    assert found(PairConfig(per_problem=1)) == AT_PROMPT[:1]


def test_the_limit_is_per_problem():
    assert len(list(sibling_pairs([wide_tree(), wide_tree()], PairConfig(per_problem=1), decode))) == 2


def test_record():
    pair = next(sibling_pairs([wide_tree()], PairConfig(), decode))
    assert (pair.problem_id, pair.prompt, pair.chosen, pair.rejected) == ("p", "1 2", "5 6 7", "8")
    assert (pair.source, pair.licence, pair.is_whole) == ("hand", "cc0", True)


def test_errors_unjudged_and_continued_nodes_pair_with_nobody():
    tree = make_tree([1], *[(0, 1, [t], [0]) for t in (5, 6, 7, 8)], (4, 1, [9], [0]))
    tree.verdicts.update({1: CORRECT, 2: ERROR, 5: WRONG})
    assert list(sibling_pairs([tree], PairConfig(), decode)) == []
