"""PRM quality on chains of known truth, told apart for the steps inside and for the answers at the end."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from small_models import CORRECT, WRONG

from reasoner.evals.run import Measured, _add, _add_step_quality, _ranks, sample, varied
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


def judged_tree(id: str, domain: str, verdict, text: str = "1+2=3\n3+3=6\n#### 6") -> Tree:
    tree = Tree.of_prompt(Problem(id, "1+2+3", "math", {"answer": "6"}, domain=domain), [ord("?")])
    tree.verdicts[tree.add(Node(ROOT, 1, tuple(map(ord, text))))] = verdict
    return tree


def test_chains_to_read_are_of_all_kinds():
    trees = [judged_tree(f"sum/{i}", "short", CORRECT) for i in range(50)]
    trees += [judged_tree("sum/51", "short", WRONG), judged_tree("gcd/1", "longer", CORRECT)]
    trees += [judged_tree("gcd/2", "longer", WRONG)]
    # after the first, what shares nothing with it; then, of equally seen ones, the first
    assert [t.problem.id for t in varied(trees, 4)] == ["sum/0", "gcd/2", "sum/51", "gcd/1"]
    assert len(varied(trees[:3], 6)) == 3


def test_a_text_without_calculations_is_shown_line_by_line():
    tree = judged_tree("p", "", CORRECT, "I think\n\nit is six")
    tree.problem = replace(tree.problem, prompt="How many?")
    shown = sample(tree, CHARACTERS, "sft")
    assert [(s["text"], s["right"], s["prm"]) for s in shown["steps"]] == [
        ("I think", None, None), ("it is six", None, None)
    ]  # fmt: skip
    assert shown["correct"] is True
    worked = sample(judged_tree("p", "", WRONG, "1+2=3\n3+3=7"), CHARACTERS, "sft")
    assert [s["right"] for s in worked["steps"]] == [True, False] and worked["correct"] is False


@pytest.mark.parametrize(
    ("domains", "subsets"), [(["", ""], {"all"}), (["x", "x"], {"all"}), (["x", ""], {"x", "other", "all"})]
)
def test_no_number_stands_twice(domains, subsets):
    found = Measured()
    problems = [Problem(str(i), "", "math", {}, domain=d) for i, d in enumerate(domains)]
    _add(found, "evaluate", "pass@1", "greedy", "sft", problems, [1.0, 0.0])
    assert len(found.rows) == len(subsets) and {row.subset for row in found.rows} == subsets
