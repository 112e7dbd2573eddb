"""PRM quality on chains of known truth, told apart for the steps inside and for the answers at the end."""

import math
from types import SimpleNamespace

import pytest
from small_models import CORRECT, WRONG

from reasoner.evals.run import Measured, _add_step_quality, _ranks
from reasoner.tree import ROOT, Node, Problem, Tree

CHARACTERS = SimpleNamespace(decode=lambda ids: "".join(map(chr, ids)))  # a token is a character


def scored(*chains: tuple[str, list[float]]) -> Tree:
    """A tree of whole chains, a step a line, with the PRM's score of each."""
    tree = Tree.of_prompt(Problem("p", "1+2+3", "math", {"answer": "6"}), [ord("?")])
    scores = {}
    for text, of_steps in chains:
        ids = tuple(map(ord, text))
        ends = tuple(i for i, c in enumerate(text) if c == "\n" or i + 1 == len(text))
        node = tree.add(Node(ROOT, 1, ids, step_ends=ends))
        tree.verdicts[node] = CORRECT if text.endswith("#### 6") else WRONG
        scores[node] = of_steps
    tree.scores["prm"] = scores
    return tree


def quality(tree: Tree) -> dict[str, float]:
    found = Measured()
    _add_step_quality(found, "evaluate", "sft", [tree], CHARACTERS, 0.5)
    return {row.subset: row.value for row in found.rows if row.metric == "auroc"}


RIGHT, WRONG_INSIDE, WRONG_END = "1+2=3\n3+3=6\n#### 6", "1+2=4\n4+3=7\n#### 7", "1+2=3\n3+3=6\n#### 7"


def test_auroc_inside_and_at_the_end():
    """An outcome model: every answer is ranked rightly, and the one wrong step inside above all right ones."""
    tree = scored((RIGHT, [0.5, 0.5, 0.9]), (WRONG_INSIDE, [0.6, 0.6, 0.1]), (WRONG_END, [0.5, 0.5, 0.1]))
    found = quality(tree)
    assert found["steps inside"] == 0.0 and found["steps at the end"] == 1.0
    # right: five steps of which one at the end (0.9); wrong: 0.6 and 0.1
    assert found["steps"] == pytest.approx((1 + 5) / (5 * 2))
    swapped = scored((RIGHT, [0.5, 0.5, 0.1]), (WRONG_INSIDE, [0.2, 0.6, 0.1]), (WRONG_END, [0.5, 0.5, 0.9]))
    found = quality(swapped)
    assert found["steps inside"] == 1.0 and found["steps at the end"] == 0.0


def test_a_class_alone_has_no_auroc():
    assert quality(scored((RIGHT, [0.5, 0.5, 0.9]))) == {}
    assert set(quality(scored((RIGHT, [0.5, 0.5, 0.9]), (WRONG_END, [0.5, 0.5, 0.1])))) == {
        "steps",
        "steps at the end",
    }


def test_answers_are_ranked_by_any_aggregate_and_one_without_steps_is_last():
    tree = scored((RIGHT, [0.5, 0.8, 0.4]), (WRONG_END, [0.9, 0.3, 0.9]))
    tree.verdicts[tree.add(Node(ROOT, 1, (ord("x"),)))] = WRONG
    assert _ranks(tree, "last") == [0.4, 0.9, -math.inf]
    assert _ranks(tree, "min") == [0.4, 0.3, -math.inf]
    assert _ranks(tree, "product") == pytest.approx([0.16, 0.243, -math.inf])
