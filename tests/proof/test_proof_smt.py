"""Constraints: verdicts against going through all assignments, the forms of an answer, formulas, bounds."""

import random
import time

import pytest

from reasoner.data.constraints import FAMILIES, constraints, solutions
from verifiers import verify, verify_many
from verifiers.proof import Task, report

pytestmark = pytest.mark.usefixtures("z3_here")
LINE = "(declare-const x Int)(declare-const y Int)(assert (> x 3))(assert (= (+ x y) 1))"


def as_brute_force_says(count: int) -> None:
    """`count` problems, each with four answers: a random model, one that is true where there is one, "unsat", half a model."""
    asked, truth = [], {}
    for i in range(count):
        family, difficulty = sorted(FAMILIES)[i % 4], 1 + i // 4 % 3
        made, rng = constraints(family, i, difficulty), random.Random(i)
        found = list(solutions(made))
        drawn = {n: rng.choice(d) for n, d in made.domains.items()}
        models = [drawn, rng.choice(found) if found else drawn]
        answers = [(", ".join(f"{n} = {v}" for n, v in m.items()), m in found) for m in models]
        answers += [
            ("unsat", not found),
            (f"{next(iter(drawn))} = 1", len(drawn) == 1 and {next(iter(drawn)): 1} in found),
        ]
        for j, (text, is_right) in enumerate(answers):
            truth[i, j] = is_right
            asked.append(((i, j), "proof", text, {"system": "smt", "statement": made.smtlib}))
    found = dict(verify_many(asked))
    assert {k: v.status for k, v in found.items()} == {
        k: "correct" if r else "incorrect" for k, r in truth.items()
    }
    assert 0.2 < sum(truth.values()) / len(truth) < 0.8


def test_verdicts_are_those_of_brute_force():
    as_brute_force_says(100)


@pytest.mark.slow
def test_a_thousand_verdicts_are_those_of_brute_force():
    as_brute_force_says(1000)


@pytest.mark.parametrize(
    "answer",
    [
        "x = 4, y = -3", "x=4\ny=-3", "x: 4; y: -3", "y := -3\nx := 4", '{"x": 4, "y": -3}', "So x is large.\n#### x = 4, y = -3",
        "(define-fun x () Int 4)\n(define-fun y () Int (- 3))", "```smt\n(define-fun x () Int 4)(define-fun y () Int (- 3))\n```",
        "x = 4, y = -3, z = 17",
    ],
)  # fmt: skip
def test_a_model_may_be_written_in_several_ways(answer):
    assert verify("proof", answer, {"system": "smt", "statement": LINE}).status == "correct"


@pytest.mark.parametrize(
    ("sort", "term", "right", "wrong"),
    [
        ("Bool", "(not x)", "x = false", "x = true"),
        ("Real", "(= (* 3.0 x) 1.0)", "x = 1/3", "x = 0.3333333333333333"),
        ("Real", "(= (* 3.0 x) 1.0)", "x = 1/3", "x = 1/0"),
        ("(_ BitVec 4)", "(= (bvadd x #x1) #x0)", "x = #xf", "x = #x0f"),
        ("(_ BitVec 4)", "(= (bvadd x #x1) #x0)", "x = #b1111", "x = 16"),
        ("(_ BitVec 4)", "(= (bvadd x #x1) #x0)", "x = -1", "x = 31"),
        ("Int", "(= (div 7 x) 3)", "x = 2", "x = 0"),
        ("Int", f"(= x 1{'0' * 38}1)", f"x = 1{'0' * 38}1", f"x = 1{'0' * 39}"),
    ],
)
def test_values_of_every_sort(sort, term, right, wrong):
    statement = f"(declare-const x {sort})(assert {term})"
    assert verify("proof", right, {"system": "smt", "statement": statement}).status == "correct"
    assert verify("proof", wrong, {"system": "smt", "statement": statement}).status == "incorrect"


@pytest.mark.parametrize(
    ("formula", "right", "detail"),
    [
        ("(and (> x 3) (= y (- 1 x)))", True, ""),
        ("(and (>= x 4) (= (+ x y) 1))", True, ""),
        ("(not (or (<= x 3) (distinct (+ y x) 1)))", True, ""),
        ("(= (+ x y) 1)", False, "it differs at x = "),
        ("false", False, "it differs at x = "),
    ],
)
def test_a_formula_has_to_say_the_same_and_a_counter_example_is_given(formula, right, detail):
    found = verify("proof", formula, {"system": "smt", "statement": LINE, "ask": "formula"})
    assert (found.status == "correct") == right and found.detail.startswith(detail)


def test_which_constraint_fails_is_said():
    assert report("x = 4, y = 0", Task("smt", LINE)).detail == "constraint 2 of 2 does not hold"
    assert report("unsat", Task("smt", LINE)).detail == "there is a model: x = 4, y = -3"


@pytest.mark.parametrize("statement", ["(declare-const x Int", "(assert (> y 1))", "(declare-const x Int)", "",
                                       "(declare-fun f (Int) Int)(assert (= (f 1) 2))"])  # fmt: skip
def test_a_reference_that_is_no_problem_is_our_fault(statement):
    found = verify("proof", "x = 1", {"system": "smt", "statement": statement})
    assert (found.status, found.reason) == ("error", "internal_error")


def test_what_the_solver_cannot_decide_of_ours_is_nobodys_fault():
    cubes = "".join(f"(declare-const {n} Int)(assert (> {n} 0))" for n in "xyz")
    statement = f"{cubes}(assert (= (+ (* x x x) (* y y y)) (* z z z)))"
    started = time.monotonic()
    assert verify("proof", "unsat", {"system": "smt", "statement": statement, "cpu_s": 1.0}).status == "error"
    assert (
        verify("proof", "x = 1, y = 1, z = 1", {"system": "smt", "statement": statement}).status
        == "incorrect"
    )
    assert time.monotonic() - started < 20
